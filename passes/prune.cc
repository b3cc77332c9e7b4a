#include "passes/prune.h"

#include <fmt/format.h>

#include <array>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"
#include "model/block_tensors.h"
#include "passes/block_scan.h"
#include "passes/layer_scan.h"
#include "passes/layerwise_pruner.h"
#include "passes/loss_gradients.h"
#include "passes/pruning_scores.h"
#include "passes/sparsity_allocation.h"

namespace llmc {

using nlohmann::json;

namespace {

/// The defaults of a pass.
struct PruneRow {
  const char* pass;
  PruneMethod method;
  RankScope scope;
};
constexpr PruneRow magnitude{"prune.magnitude", PruneMethod::magnitude, RankScope::tensor};
constexpr PruneRow fisher{"prune.fisher", PruneMethod::fisher, RankScope::row};
constexpr PruneRow wanda{"prune.wanda", PruneMethod::wanda, RankScope::row};
constexpr PruneRow sparsegpt{"prune.sparsegpt", PruneMethod::sparsegpt, RankScope::tensor};

class Prune final : public Pass {
 public:
  Prune(const PruneRow& method, FieldReader fields, const std::string& where) : method_(method), targets_(fields, method.scope, where) {
    pruning_.method = method.method;
    if (fields.find_bool("reconstruct").value_or(false)) pruning_.reconstruction = Reconstruction::least_squares;
    const auto damping = fields.find_number("damping");
    if (damping && !has_damping()) throw Error(ErrorKind::usage, fmt::format("{}: damping makes sense only with {} or reconstruct", where, sparsegpt.pass));
    pruning_.damping = damping.value_or(pruning_.damping);
    if (!(pruning_.damping > 0 && pruning_.damping <= 1)) throw Error(ErrorKind::usage, fmt::format("{}: damping: expected more than 0 and at most 1, found {}", where, pruning_.damping));
    allocation_ = parse_allocation(fields.find_string("allocation").value_or("uniform"), where);
    if (allocation_ != Allocation::uniform && targets_.pattern().is_n_of_m()) throw Error(ErrorKind::usage, fmt::format("{}: allocation {} makes no sense with pattern {}, which fixes the share of every row", where, to_string(allocation_), to_string(targets_.pattern())));
    is_scanned_ = fields.find_bool("sensitivity").value_or(false);
    if (is_scanned_ && targets_.pattern().is_n_of_m()) throw Error(ErrorKind::usage, fmt::format("{}: sensitivity makes no sense with pattern {}, which fixes the sparsity", where, to_string(targets_.pattern())));
    if (method_.method == PruneMethod::fisher && sweeps()) throw Error(ErrorKind::usage, fmt::format("{}: reconstruct, allocation and sensitivity go layer by layer and make no sense with {}, which ranks by the whole model's gradients", where, fisher.pass));
    if (sweeps() && targets_.scope() == RankScope::global) throw Error(ErrorKind::usage, fmt::format("{}: scope global makes sense only for magnitudes and {}: weights that are scored on calibration text are pruned layer by layer; choose tensor or row", where, fisher.pass));
    fields.finish();
  }

  json options() const override {
    json result = targets_.options();
    result["pass"] = method_.pass;
    if (pruning_.reconstruction == Reconstruction::least_squares) result["reconstruct"] = true;
    if (has_damping()) result["damping"] = pruning_.damping;
    if (allocation_ != Allocation::uniform) result["allocation"] = to_string(allocation_);
    if (is_scanned_) result["sensitivity"] = true;
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override {
    if (method_.method == PruneMethod::fisher) check_trainable(model, fisher.pass);
    return targets_.plan(model);
  }
  bool needs_calibration() const override { return sweeps() || method_.method == PruneMethod::fisher; }

  json run(Model& model, const PassContext& context) override {
    if (!sweeps()) return prune_at_once(model, context);
    std::vector<PruneTarget> list;
    for (const PlacedTensor* placed : targets_.resolve(model)) list.push_back({placed, targets_.sparsity()});
    json sensitivity;
    if (is_scanned_) {
      const std::vector<double> sparsities = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};
      const auto layers = scan_layers(model, targets_, list, method_.method, sparsities, context);
      sensitivity = {{"sparsities", sparsities}, {"layers", json::array()}};
      for (size_t i = 0; i < list.size(); ++i) sensitivity["layers"].push_back({{"tensor", list[i].placed->tensor->name}, {"block", list[i].placed->block}, {"outlier_share", layers[i].outlier_share}, {"errors", layers[i].errors}});
      sensitivity["blocks"] = json::array();
      for (const BlockScan& scan : scan_blocks(model, targets_, list, method_.method, sparsities, 0, context)) sensitivity["blocks"].push_back({{"block", scan.block}, {"kl", scan.divergences}});
    }
    if (allocation_ != Allocation::uniform) allocate(model, list, context);
    json result = prune_layerwise(model, targets_, list, pruning_, context);
    if (is_scanned_) result["sensitivity"] = std::move(sensitivity);
    return result;
  }

 private:
  using FisherMatrices = std::map<const PlacedTensor*, Matrix>;  ///< none for magnitudes

  /// Whether weights go layer by layer, on the inputs that they have by then.
  bool sweeps() const { return method_.method == PruneMethod::wanda || method_.method == PruneMethod::sparsegpt || pruning_.reconstruction != Reconstruction::none || allocation_ != Allocation::uniform || is_scanned_; }
  bool has_damping() const { return method_.method == PruneMethod::sparsegpt || pruning_.reconstruction == Reconstruction::least_squares; }

  void allocate(Model& model, std::vector<PruneTarget>& list, const PassContext& context) const {
    const double sparsity = targets_.sparsity();
    if (allocation_ == Allocation::owl) {
      const auto shares = allocate_by_outliers(scan_layers(model, targets_, list, method_.method, {}, context), sparsity);
      for (size_t i = 0; i < list.size(); ++i) list[i].sparsity = shares[i];
      return;
    }
    std::map<int64_t, int64_t> weights;
    for (const PruneTarget& target : list) weights[target.placed->block] += target.placed->tensor->count();
    const double step = allocation_step(sparsity);
    const std::array tried = {sparsity - step, sparsity, sparsity + step};
    std::vector<BlockCost> costs;
    std::map<int64_t, size_t> places;
    for (const BlockScan& scan : scan_blocks(model, targets_, list, method_.method, tried, sparsity, context)) {
      places[scan.block] = costs.size();
      costs.push_back({.weights = weights.at(scan.block), .less = scan.divergences[0], .same = scan.divergences[1], .more = scan.divergences[2]});
    }
    const auto shares = allocate_by_cost(costs, sparsity);
    for (PruneTarget& target : list) target.sparsity = shares[places.at(target.placed->block)];
  }

  json prune_at_once(Model& model, const PassContext& context) const {
    const std::vector<const PlacedTensor*> chosen = targets_.resolve(model);
    const SparsityPattern& pattern = targets_.pattern();
    int64_t units = 0, planned = 0;
    for (const PlacedTensor* placed : chosen) {
      units += ranked_units(pattern, RankScope::tensor, placed->tensor->rows(), placed->tensor->cols());
      planned += targets_.planned_zeros(*placed->tensor, targets_.sparsity());
    }
    const FisherMatrices squares = method_.method == PruneMethod::fisher ? measure_fisher(model, chosen, context) : FisherMatrices();
    std::optional<GlobalRanking> ranking;
    if (targets_.scope() == RankScope::global && !pattern.is_n_of_m()) {
      const int64_t gone = share_of(targets_.sparsity(), units);
      planned = gone * pattern.block_rows * pattern.block_cols;
      ranking = rank_all(chosen, squares, gone, context.run);
    }
    PruneCount count;
    Stage stage(context.run, "prune", static_cast<int64_t>(chosen.size()));
    for (const PlacedTensor* placed : chosen) {
      StoredTensor& tensor = *placed->tensor;
      Matrix values = read_matrix(tensor), buffer;
      const ConstMatrixView scores = score(*placed, values, squares, buffer);
      const Mask mask = ranking ? ranking->choose(scores) : choose_mask(scores, pattern, targets_.scope(), share_of(targets_.sparsity(), ranked_units(pattern, targets_.scope(), values.rows(), values.cols())));
      const int64_t changed = apply(mask, values.view());
      count.add(tensor.count(), find_zeros(values.view()).zeros(), changed);
      tensor.form = make_floats(tensor, values.view());
      tensor.pruned = true;
      stage.advance();
    }
    return count.finish(targets_, planned);
  }

  /// Of magnitudes the weights themselves; others are put into `buffer`.
  static ConstMatrixView score(const PlacedTensor& placed, const Matrix& weights, const FisherMatrices& squares, Matrix& buffer) {
    const auto found = squares.find(&placed);
    if (found == squares.end()) return weights.view();
    buffer = fisher_scores(weights.view(), found->second.view());
    return std::as_const(buffer).view();
  }

  GlobalRanking rank_all(const std::vector<const PlacedTensor*>& chosen, const FisherMatrices& squares, int64_t gone, const RunContext& context) const {
    GlobalRanking ranking(targets_.pattern(), gone);
    Stage stage(context, "rank weights", 2 * static_cast<int64_t>(chosen.size()));
    for (int pass = 0; pass < 2; ++pass) {
      for (const PlacedTensor* placed : chosen) {
        Matrix buffer;
        const Matrix weights = read_matrix(*placed->tensor);
        ranking.count(score(*placed, weights, squares, buffer));
        stage.advance();
      }
      ranking.refine();
    }
    return ranking;
  }

  const PruneRow& method_;
  PruneTargets targets_;
  LayerwisePruning pruning_;
  Allocation allocation_ = Allocation::uniform;
  bool is_scanned_ = false;
};

std::unique_ptr<Pass> make_prune(const PruneRow& method, const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<Prune>(method, std::move(fields), where);
}

}  // namespace

std::unique_ptr<Pass> make_prune_magnitude(const json& step, const std::string& where) { return make_prune(magnitude, step, where); }
std::unique_ptr<Pass> make_prune_fisher(const json& step, const std::string& where) { return make_prune(fisher, step, where); }
std::unique_ptr<Pass> make_prune_wanda(const json& step, const std::string& where) { return make_prune(wanda, step, where); }
std::unique_ptr<Pass> make_prune_sparsegpt(const json& step, const std::string& where) { return make_prune(sparsegpt, step, where); }

}  // namespace llmc
