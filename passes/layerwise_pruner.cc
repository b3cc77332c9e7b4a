#include "passes/layerwise_pruner.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/parallel.h"
#include "passes/hessian.h"
#include "passes/pruning_scores.h"
#include "passes/reconstruction.h"
#include "passes/sparsegpt.h"
#include "passes/tap_targets.h"

namespace llmc {

using nlohmann::json;

namespace {

class LayerwisePruner final : public BlockVisitor {
 public:
  LayerwisePruner(const PruneTargets& targets, const std::vector<PruneTarget>& list, const LayerwisePruning& pruning) : targets_(targets), by_tap_(list), pruning_(pruning) {}

  bool needs_statistics(int64_t block, Tap tap) const override { return by_tap_.has(block, tap); }
  bool needs_drift_moment() const override { return reconstructs(); }

  void finish(int64_t block, Tap tap, const InputStatistics& statistics) override {
    const auto* due = by_tap_.find(block, tap, statistics.part);
    if (!due) return;
    std::optional<HessianFactor> factor;
    if (pruning_.method == PruneMethod::sparsegpt || reconstructs()) factor = factor_hessian(statistics.second_moment.view(), pruning_.damping, RoundingOrder::natural, fmt::format("block {}, {}", block, to_string(tap)));
    for (const PruneTarget& target : *due) {
      StoredTensor& tensor = *target.placed->tensor;
      const Matrix weights = read_matrix(tensor);
      PrunedMatrix pruned = prune(weights, target, statistics, factor ? &*factor : nullptr);
      record(target, weights, pruned, statistics, factor ? &*factor : nullptr);
      tensor.form = FloatData(std::move(pruned.values));
      tensor.pruned = true;
    }
  }

  json notes() const override { return layers_; }
  void restore_notes(const json& notes) override { layers_ = notes; }
  const json& layers() const { return layers_; }

 private:
  bool reconstructs() const { return pruning_.reconstruction == Reconstruction::least_squares; }

  PrunedMatrix prune(const Matrix& weights, const PruneTarget& target, const InputStatistics& statistics, const HessianFactor* factor) const {
    const ConstMatrixView h = statistics.second_moment.view();
    const std::vector<float> mean_square = statistics.mean_square();
    Matrix goal = reconstructs() ? correct_for_drift(weights.view(), statistics.drift_moment.view(), *factor) : weights;
    const SparsityTarget share{.pattern = targets_.pattern(), .scope = targets_.scope(), .sparsity = target.sparsity};
    PrunedMatrix pruned;
    if (pruning_.method == PruneMethod::sparsegpt) {
      pruned = prune_sparsegpt(goal.view(), *factor, mean_square, share);
    } else {
      const Matrix scores = pruning_.method == PruneMethod::wanda ? wanda_scores(weights.view(), mean_square) : weights;
      pruned.mask = choose_mask(scores.view(), share.pattern, share.scope, share_of(share.sparsity, ranked_units(share.pattern, share.scope, weights.rows(), weights.cols())));
      pruned.values = goal;
      apply(pruned.mask, pruned.values.view());
    }
    if (reconstructs()) pruned.values = reconstruct(goal.view(), pruned.mask, pruned.values.view(), h, pruning_.damping);
    return pruned;
  }

  void record(const PruneTarget& target, const Matrix& weights, const PrunedMatrix& pruned, const InputStatistics& statistics, const HessianFactor* factor) {
    const StoredTensor& tensor = *target.placed->tensor;
    const ConstMatrixView h = statistics.second_moment.view();
    Matrix masked = weights;
    const int64_t changed = apply(pruned.mask, masked.view());
    const int64_t zeros = find_zeros(pruned.values.view()).zeros(), planned = targets_.planned_zeros(tensor, target.sparsity);
    if (zeros < planned) throw Error(ErrorKind::bug, fmt::format("tensor {}: {} zeros, expected {}", tensor.name, zeros, planned));
    json layer = {{"tensor", tensor.name}, {"sparsity_asked", target.sparsity}, {"sparsity", static_cast<double>(zeros) / static_cast<double>(tensor.count())}, {"zeros", zeros}, {"changed", changed}};
    layer["masked_error"] = relative_output_error(weights.view(), masked.view(), h);
    layer["error"] = relative_output_error(weights.view(), pruned.values.view(), h);
    if (factor) layer.update({{"damping", factor->damping}, {"dead_channels", factor->dead}});
    layers_.push_back(std::move(layer));
  }

  const PruneTargets& targets_;
  TapTargets<PruneTarget> by_tap_;
  LayerwisePruning pruning_;
  json layers_ = json::array();
};

}  // namespace

json prune_layerwise(Model& model, const PruneTargets& targets, const std::vector<PruneTarget>& list, const LayerwisePruning& pruning, const PassContext& context) {
  LayerwisePruner pruner(targets, list, pruning);
  const auto errors = sweep(model, *context.calibration, context.sweep, pruner, context.run);
  PruneCount count;
  int64_t planned = 0;
  for (const PruneTarget& target : list) {
    const StoredTensor& tensor = *target.placed->tensor;
    const auto layer = std::ranges::find(pruner.layers(), tensor.name, [](const json& row) { return row.at("tensor").get<std::string>(); });
    if (layer == pruner.layers().end()) throw Error(ErrorKind::bug, fmt::format("tensor {}: was not pruned", tensor.name));
    count.add(tensor.count(), layer->at("zeros").get<int64_t>(), layer->at("changed").get<int64_t>());
    planned += targets.planned_zeros(tensor, target.sparsity);
  }
  json result = count.finish(targets, planned);
  result["layers"] = pruner.layers();
  for (const BlockError& error : errors) result["blocks"].push_back({{"hidden_error", error.relative_error}});
  return result;
}

}  // namespace llmc
