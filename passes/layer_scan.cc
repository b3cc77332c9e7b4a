#include "passes/layer_scan.h"

#include <nlohmann/json.hpp>
#include <numeric>

#include "passes/hessian.h"
#include "passes/pruning_scores.h"
#include "passes/tap_targets.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr double outlier_multiple = 5;

class Scanner final : public BlockVisitor {
 public:
  Scanner(const ModelConfig& config, const PruneTargets& targets, const std::vector<PruneTarget>& list, PruneMethod method, std::span<const double> sparsities) : last_part_(list_parts(all_taps.back(), config).back().number), targets_(targets), by_tap_(list), method_(method), sparsities_(sparsities) {}

  bool needs_statistics(int64_t block, Tap tap) const override { return by_tap_.has(block, tap); }

  void finish(int64_t block, Tap tap, const InputStatistics& statistics) override {
    if (const auto* due = by_tap_.find(block, tap, statistics.part))
      for (const PruneTarget& target : *due) scan(*target.placed->tensor, statistics);
    if (tap != all_taps.back() || statistics.part != last_part_ || scores_.empty()) return;
    double mean = 0;
    for (const Matrix& scores : scores_) mean += std::accumulate(scores.values().begin(), scores.values().end(), 0.0);
    size_t count = 0, outliers = 0;
    for (const Matrix& scores : scores_) count += scores.values().size();
    mean /= static_cast<double>(count);
    for (const Matrix& scores : scores_)
      for (float score : scores.values()) outliers += score > outlier_multiple * mean;
    outliers_[std::to_string(block)] = static_cast<double>(outliers) / static_cast<double>(count);
    scores_.clear();
  }

  json notes() const override { return {{"errors", errors_}, {"outliers", outliers_}}; }
  void restore_notes(const json& notes) override { errors_ = notes.at("errors"), outliers_ = notes.at("outliers"); }

  LayerScan find(const PlacedTensor& placed) const {
    return {.weights = placed.tensor->count(), .outlier_share = outliers_.at(std::to_string(placed.block)).get<double>(), .errors = errors_.at(placed.tensor->name).get<std::vector<double>>()};
  }

 private:
  void scan(const StoredTensor& tensor, const InputStatistics& statistics) {
    const Matrix weights = read_matrix(tensor);
    Matrix scores = wanda_scores(weights.view(), statistics.mean_square());
    const Matrix& ranked = method_ == PruneMethod::magnitude ? weights : scores;
    json errors = json::array();
    for (double sparsity : sparsities_) {
      Matrix masked = weights;
      apply(choose_mask(ranked.view(), targets_.pattern(), targets_.scope(), share_of(sparsity, ranked_units(targets_.pattern(), targets_.scope(), weights.rows(), weights.cols()))), masked.view());
      errors.push_back(relative_output_error(weights.view(), masked.view(), statistics.second_moment.view()));
    }
    errors_[tensor.name] = std::move(errors);
    scores_.push_back(std::move(scores));
  }

  int64_t last_part_;  ///< of the last tap
  const PruneTargets& targets_;
  TapTargets<PruneTarget> by_tap_;
  PruneMethod method_;
  std::span<const double> sparsities_;
  std::vector<Matrix> scores_;  ///< of the current block
  json errors_ = json::object();
  json outliers_ = json::object();
};

}  // namespace

std::vector<LayerScan> scan_layers(Model& model, const PruneTargets& targets, const std::vector<PruneTarget>& list, PruneMethod method, std::span<const double> sparsities, const PassContext& context) {
  Scanner scanner(model.config(), targets, list, method, sparsities);
  sweep(model, *context.calibration, context.scan(), scanner, context.run);
  std::vector<LayerScan> layers;
  for (const PruneTarget& target : list) layers.push_back(scanner.find(*target.placed));
  return layers;
}

}  // namespace llmc
