#include "passes/prune.h"

#include <fmt/format.h>

#include <optional>

#include "core/error.h"
#include "passes/layerwise_pruner.h"

namespace llmc {

using nlohmann::json;

namespace {

/// The defaults of a pass.
struct Method {
  const char* pass;
  PruneMethod method;
  RankScope scope;
};
constexpr Method magnitude{"prune.magnitude", PruneMethod::magnitude, RankScope::tensor};
constexpr Method wanda{"prune.wanda", PruneMethod::wanda, RankScope::row};
constexpr Method sparsegpt{"prune.sparsegpt", PruneMethod::sparsegpt, RankScope::tensor};

class Prune final : public Pass {
 public:
  Prune(const Method& method, FieldReader fields, const std::string& where) : method_(method), targets_(fields, method.scope, where) {
    pruning_.method = method.method;
    if (fields.find_bool("reconstruct").value_or(false)) pruning_.reconstruction = Reconstruction::least_squares;
    const auto damping = fields.find_number("damping");
    if (damping && !has_damping()) throw Error(ErrorKind::usage, fmt::format("{}: damping makes sense only with {} or reconstruct", where, sparsegpt.pass));
    pruning_.damping = damping.value_or(pruning_.damping);
    if (!(pruning_.damping > 0 && pruning_.damping <= 1)) throw Error(ErrorKind::usage, fmt::format("{}: damping: expected more than 0 and at most 1, found {}", where, pruning_.damping));
    if (needs_calibration() && targets_.scope() == RankScope::global) throw Error(ErrorKind::usage, fmt::format("{}: scope global makes sense only for magnitudes: weights that are scored on calibration text are pruned layer by layer; choose tensor or row", where));
    fields.finish();
  }

  json options() const override {
    json result = targets_.options();
    result["pass"] = method_.pass;
    if (pruning_.reconstruction == Reconstruction::least_squares) result["reconstruct"] = true;
    if (has_damping()) result["damping"] = pruning_.damping;
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override { return targets_.plan(model); }
  bool needs_calibration() const override { return method_.method != PruneMethod::magnitude || pruning_.reconstruction != Reconstruction::none; }

  json run(Model& model, const PassContext& context) override {
    if (!needs_calibration()) return prune_by_magnitude(model, context);
    std::vector<PruneTarget> list;
    for (const PlacedTensor* placed : targets_.resolve(model)) list.push_back({placed, targets_.sparsity()});
    return prune_layerwise(model, targets_, list, pruning_, context);
  }

 private:
  bool has_damping() const { return method_.method == PruneMethod::sparsegpt || pruning_.reconstruction == Reconstruction::least_squares; }

  json prune_by_magnitude(Model& model, const PassContext& context) const {
    const std::vector<const PlacedTensor*> chosen = targets_.resolve(model);
    const SparsityPattern& pattern = targets_.pattern();
    int64_t units = 0, planned = 0;
    for (const PlacedTensor* placed : chosen) {
      units += ranked_units(pattern, RankScope::tensor, placed->tensor->rows(), placed->tensor->cols());
      planned += targets_.planned_zeros(*placed->tensor, targets_.sparsity());
    }
    std::optional<GlobalRanking> ranking;
    if (targets_.scope() == RankScope::global && !pattern.is_n_of_m()) {
      const int64_t gone = share_of(targets_.sparsity(), units);
      planned = gone * pattern.block_rows * pattern.block_cols;
      ranking = rank_all(chosen, gone, context.run);
    }
    PruneCount count;
    Stage stage(context.run, "prune", static_cast<int64_t>(chosen.size()));
    for (const PlacedTensor* placed : chosen) {
      StoredTensor& tensor = *placed->tensor;
      Matrix values = read_matrix(tensor);
      const Mask mask = ranking ? ranking->choose(values.view()) : choose_mask(values.view(), pattern, targets_.scope(), share_of(targets_.sparsity(), ranked_units(pattern, targets_.scope(), values.rows(), values.cols())));
      const int64_t changed = apply(mask, values.view());
      count.add(tensor.count(), find_zeros(values.view()).zeros(), changed);
      tensor.form = make_floats(tensor, values.view());
      tensor.pruned = true;
      stage.advance();
    }
    return count.finish(targets_, planned);
  }

  GlobalRanking rank_all(const std::vector<const PlacedTensor*>& chosen, int64_t gone, const RunContext& context) const {
    GlobalRanking ranking(targets_.pattern(), gone);
    Stage stage(context, "rank weights", 2 * static_cast<int64_t>(chosen.size()));
    for (int pass = 0; pass < 2; ++pass) {
      for (const PlacedTensor* placed : chosen) {
        ranking.count(read_matrix(*placed->tensor).view());
        stage.advance();
      }
      ranking.refine();
    }
    return ranking;
  }

  const Method& method_;
  PruneTargets targets_;
  LayerwisePruning pruning_;
};

std::unique_ptr<Pass> make(const Method& method, const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<Prune>(method, std::move(fields), where);
}

}  // namespace

std::unique_ptr<Pass> make_prune_magnitude(const json& step, const std::string& where) { return make(magnitude, step, where); }
std::unique_ptr<Pass> make_prune_wanda(const json& step, const std::string& where) { return make(wanda, step, where); }
std::unique_ptr<Pass> make_prune_sparsegpt(const json& step, const std::string& where) { return make(sparsegpt, step, where); }

}  // namespace llmc
