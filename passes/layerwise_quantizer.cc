#include "passes/layerwise_quantizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/parallel.h"
#include "passes/hessian.h"
#include "passes/outliers.h"
#include "passes/rounding.h"
#include "passes/tap_targets.h"

namespace llmc {

using nlohmann::json;

namespace {

class LayerwiseQuantizer final : public BlockVisitor {
 public:
  LayerwiseQuantizer(Model& model, const QuantizeTargets& targets, const std::vector<QuantizeTarget>& list, WeightRounder& rounder) : by_tap_(list), model_(model), list_(list), targets_(targets), rounder_(rounder) {}

  bool needs_preparation() const override { return targets_.scaling().is_active(); }
  void prepare(int64_t block, const std::map<Tap, InputStatistics>& statistics) override {
    for (json& note : targets_.scaling().scale_block(model_, block, statistics, list_)) sites_.push_back(std::move(note));
  }

  bool needs_statistics(int64_t block, Tap tap) const override { return by_tap_.has(block, tap); }
  bool needs_drift_moment() const override { return rounder_.needs_drift_moment(); }

  bool needs_observation(int64_t block, Tap tap) const override {
    const auto* due = by_tap_.find(block, tap, 0);
    return due && std::ranges::any_of(*due, has_static_input);
  }

  /// A layer that rounds its input to integers does so from what the layer before it gave.
  bool needs_exact_inputs() const override {
    return std::ranges::any_of(list_, [](const QuantizeTarget& target) { return target.scheme.input.has_value(); });
  }

  void observe(int64_t block, Tap tap, ConstMatrixView x) override {
    constexpr int64_t piece = 64;  // rows; each piece has an observer of its own, merged in the end
    const auto pieces = static_cast<size_t>((x.rows + piece - 1) / piece);
    while (observers_.size() < pieces) observers_.push_back(targets_.make_input_observer(describe(block, tap)));
    parallel_pieces(x.rows, piece, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) observers_[static_cast<size_t>(first / piece)]->add(sequence_, x.row_span(r));
    });
    ++sequence_;
  }

  void finish(int64_t block, Tap tap, const InputStatistics& statistics) override {
    if (rounder_.tunes_blocks() && tap == all_taps.front()) values_ = read_block(model_, block);
    const auto* due = by_tap_.find(block, tap, statistics.part);
    if (!due) return;
    for (size_t i = 1; i < observers_.size(); ++i) observers_[0]->merge(*observers_[i]);
    rounder_.begin_tap(statistics, describe(block, tap));
    for (const QuantizeTarget& target : *due) {
      StoredTensor& tensor = *target.placed->tensor;
      const Matrix weights = read_matrix(tensor);
      Matrix rest = weights;
      Outliers outliers = take_outliers(rest, targets_.keep_outliers(), outlier_dtype_for(tensor.dtype));
      QuantizedMatrix rounded = rounder_.round(rest.view(), target, statistics);
      rounded.outliers = std::move(outliers);
      record(target, weights, rest, rounded, statistics);
      tensor.form = std::move(rounded);
      tensor.pruned = tensor.pruned || rounder_.prunes();
      if (!has_static_input(target)) continue;
      const ActivationScheme& input = *target.scheme.input;
      const Range range = observers_[0]->range({.mapping = input.mapping, .bits = input.bits});
      set_input_grid(tensor, make_static_grid(input, static_cast<float>(range.low), static_cast<float>(range.high), target.scale_dtype(), describe(block, tap)));
    }
    observers_.clear();
    sequence_ = 0;
  }

  bool needs_block_outputs() const override { return rounder_.tunes_blocks(); }

  void finish_block(int64_t block, const ActivationStore& inputs, const ActivationStore& outputs) override {
    std::map<Role, QuantizedMatrix> rounded;
    std::map<Role, StoredTensor*> tensors;
    for (Tap tap : all_taps) {
      const auto* due = by_tap_.find(block, tap, 0);
      if (!due) continue;
      for (const QuantizeTarget& target : *due) {
        const Role role = target.placed->row->role;
        tensors[role] = target.placed->tensor;
        rounded.emplace(role, std::get<QuantizedMatrix>(std::move(target.placed->tensor->form)));
      }
    }
    if (rounded.empty()) return;
    json tuned = rounder_.tune_block(model_.config(), block, values_, rounded, inputs, outputs);
    tuned["block"] = block;
    tuned_.push_back(std::move(tuned));
    for (auto& [role, matrix] : rounded) tensors.at(role)->form = std::move(matrix);
  }

  /// Files of finished blocks do not say which tensors were rescaled: the notes do.
  json notes() const override {
    json moved = json::array();
    for (const PlacedTensor& placed : model_.tensors())
      if (placed.tensor->moved) moved.push_back(placed.tensor->name);
    return {{"layers", layers_}, {"tuned", tuned_}, {"sites", sites_}, {"moved", std::move(moved)}};
  }
  void restore_notes(const json& notes) override {
    layers_ = notes.at("layers");
    tuned_ = notes.at("tuned");
    sites_ = notes.at("sites");
    const auto moved = notes.at("moved").get<std::set<std::string>>();
    for (const PlacedTensor& placed : model_.tensors())
      if (moved.contains(placed.tensor->name)) placed.tensor->moved = true;
  }

  /// What the report says of the run.
  json describe() const {
    json result = {{"layers", layers_}};
    if (!tuned_.empty()) result["tuned"] = tuned_;
    if (targets_.scaling().is_active()) result["channel_scales"] = sites_;
    return result;
  }

 private:
  static bool has_static_input(const QuantizeTarget& target) { return target.scheme.input && target.scheme.input->range == InputRange::calibrated; }
  static std::string describe(int64_t block, Tap tap) { return fmt::format("block {}, {}", block, to_string(tap)); }

  /// `rest`: the weights without outliers.
  void record(const QuantizeTarget& target, const Matrix& weights, const Matrix& rest, const QuantizedMatrix& rounded, const InputStatistics& statistics) {
    const std::string& name = target.placed->tensor->name;
    const ConstMatrixView h = statistics.second_moment.view();
    QuantizedMatrix plain = round_to_nearest(rest.view(), target.scheme, target.scale_dtype(), target.range({}), name);
    plain.outliers = rounded.outliers;
    const Matrix nearest = dequantize(plain);
    json layer = rounder_.describe_tap();
    layer["tensor"] = name;
    layer["nearest_error"] = relative_output_error(weights.view(), nearest.view(), h);
    layer["error"] = relative_output_error(weights.view(), dequantize(rounded).view(), h);
    layers_.push_back(std::move(layer));
  }

  TapTargets<QuantizeTarget> by_tap_;
  Model& model_;
  const std::vector<QuantizeTarget>& list_;
  const QuantizeTargets& targets_;
  WeightRounder& rounder_;
  BlockTensors values_;  ///< the current block's floats, for a method that tunes whole blocks
  std::vector<std::unique_ptr<Observer>> observers_;  ///< of the current tap's inputs
  int64_t sequence_ = 0;
  json layers_ = json::array();
  json tuned_ = json::array();
  json sites_ = json::array();
};

}  // namespace

json quantize_layerwise(Model& model, const QuantizeTargets& targets, WeightRounder& rounder, const PassContext& context) {
  const auto list = targets.resolve(model);
  const int64_t before = count_quantized(model);
  int64_t weights = 0;
  for (const QuantizeTarget& target : list) {
    StoredTensor& tensor = *target.placed->tensor;
    weights += tensor.count();
    if (target.placed->block >= 0) continue;
    tensor.form = round_target(target, targets);
  }
  LayerwiseQuantizer quantizer(model, targets, list, rounder);
  const auto errors = sweep(model, *context.calibration, context.sweep, quantizer, context.run);
  const int64_t quantized = count_quantized(model) - before;
  if (quantized != static_cast<int64_t>(list.size())) throw Error(ErrorKind::bug, fmt::format("quantized {} tensors, expected {}", quantized, list.size()));
  json result = {{"tensors", list.size()}, {"weights", weights}, {"blocks", json::array()}};
  result.update(quantizer.describe());
  for (const BlockError& error : errors) result["blocks"].push_back({{"hidden_error", error.relative_error}});
  return result;
}

}  // namespace llmc
