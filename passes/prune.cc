#include "passes/prune.h"

#include <optional>

#include "passes/prune_targets.h"

namespace llmc {

using nlohmann::json;

namespace {

class PruneMagnitude final : public Pass {
 public:
  PruneMagnitude(FieldReader fields, const std::string& where) : targets_(fields, RankScope::tensor, where) { fields.finish(); }

  json options() const override {
    json result = targets_.options();
    result["pass"] = "prune.magnitude";
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override { return targets_.plan(model); }

  json run(Model& model, const PassContext& context) override {
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
      count.add(values.view(), changed);
      tensor.form = make_floats(tensor, values.view());
      tensor.pruned = true;
      stage.advance();
    }
    return count.finish(targets_, planned);
  }

 private:
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

  PruneTargets targets_;
};

}  // namespace

std::unique_ptr<Pass> make_prune_magnitude(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<PruneMagnitude>(std::move(fields), where);
}

}  // namespace llmc
