#include "passes/structure_pruner.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "core/error.h"
#include "passes/hessian.h"
#include "passes/loss_gradients.h"
#include "passes/structures.h"

namespace llmc {

using nlohmann::json;

namespace {

/// Of the structures that the layer behind a tap reads: how many there are, how many stay, and how wide each is there.
struct Cut {
  int64_t count = 0;
  int64_t kept = 0;
  int64_t width = 0;
};

/// Nothing where a tap keeps all of its structures.
std::optional<Cut> find_cut(const ModelConfig& config, const Sizes& sizes, Tap tap) {
  const Cut heads{config.kv_heads, sizes.kv_groups, config.query_width() / config.kv_heads}, channels{config.ffn, sizes.ffn, 1};
  if (tap == Tap::attention_context && heads.kept < heads.count) return heads;
  if (tap == Tap::ffn_activation && channels.kept < channels.count) return channels;
  return std::nullopt;
}

/// Adds the squared weights of each structure: `width` rows of a matrix [out, in], from row `first`.
void add_rows(const Model& model, Role role, int64_t block, int64_t first, int64_t width, std::vector<double>& scores) {
  if (!model.find(role, block)) return;
  const Matrix weights = read_matrix(model.get(role, block));
  for (size_t s = 0; s < scores.size(); ++s)
    for (int64_t r = 0; r < width; ++r)
      for (float value : weights.view().row_span(first + static_cast<int64_t>(s) * width + r)) scores[s] += double{value} * value;
}

/// The layer that reads a tap's structures.
Role reader_of(Tap tap) { return tap == Tap::attention_context ? Role::attention_output : Role::ffn_down; }

/// The sum of all squared weights of each structure, in what writes it and what reads it.
std::vector<double> score_by_magnitude(const Model& model, int64_t block, Tap tap, const Cut& cut) {
  const ModelConfig& config = model.config();
  const bool is_heads = tap == Tap::attention_context;
  const Matrix reader = read_matrix(model.get(reader_of(tap), block));
  std::vector<double> scores = score_by_activation(reader.view(), std::vector<float>(static_cast<size_t>(reader.cols()), 1.0f), cut.width);
  if (is_heads) {
    add_rows(model, Role::query, block, 0, cut.width, scores);
    for (Role role : {Role::key, Role::value}) add_rows(model, role, block, 0, config.head_dim, scores);
    if (config.fused_order == FusedOrder::parts) {
      add_rows(model, Role::query_key_value, block, 0, cut.width, scores);
      for (int64_t first : {config.fused_key(0), config.fused_value(0)}) add_rows(model, Role::query_key_value, block, first, config.head_dim, scores);
    } else {
      add_rows(model, Role::query_key_value, block, 0, cut.width + 2 * config.head_dim, scores);
    }
  } else {
    for (int64_t first : {int64_t{0}, config.ffn}) add_rows(model, Role::ffn_gate_up, block, first, 1, scores);
    for (Role role : {Role::ffn_gate, Role::ffn_up}) add_rows(model, role, block, 0, 1, scores);
  }
  return scores;
}

void keep(Kept& kept, Tap tap, std::vector<int64_t> structures) { (tap == Tap::attention_context ? kept.kv_groups : kept.ffn).push_back(std::move(structures)); }

bool adds_to_residual(Tap tap) { return tap == Tap::attention_context || tap == Tap::ffn_activation; }

/// By block and tap: what each structure is worth.
using TaylorScores = std::map<std::pair<int64_t, Tap>, std::vector<double>>;

/// Mean square, over samples, of slope_of_structures, of the model as it is.
TaylorScores score_by_taylor(const Model& model, const Sizes& sizes, const PassContext& context) {
  std::vector<const PlacedTensor*> readers;
  for (const PlacedTensor& placed : model.tensors())
    for (Tap tap : all_taps)
      if (placed.block >= 0 && placed.part == Part::weight && find_cut(model.config(), sizes, tap) && placed.row->role == reader_of(tap)) readers.push_back(&placed);
  TaylorScores scores;
  visit_loss_gradients(model, readers, context, [&](const PlacedTensor& placed, const Matrix& gradient) {
    const Tap tap = *find_tap(placed.row->role);
    const std::vector<double> slopes = slope_of_structures(read_matrix(*placed.tensor).view(), gradient.view(), find_cut(model.config(), sizes, tap)->width);
    std::vector<double>& sums = scores[{placed.block, tap}];
    sums.resize(slopes.size());
    for (size_t i = 0; i < slopes.size(); ++i) sums[i] += slopes[i] * slopes[i] / static_cast<double>(context.calibration->size());
  });
  return scores;
}

class StructurePruner final : public BlockVisitor {
 public:
  StructurePruner(Model& model, const StructureTargets& targets, const Sizes& sizes, const std::vector<int64_t>& kept_blocks, const std::vector<int64_t>& kept_hidden, TaylorScores taylor) : model_(model), targets_(targets), sizes_(sizes), taylor_(std::move(taylor)), has_changed_(!kept_hidden.empty()) { choice_.kept.blocks = kept_blocks, choice_.kept.hidden = kept_hidden; }

  bool needs_statistics(int64_t block, Tap tap) const override { return stays(block) && (find_cut(model_.config(), sizes_, tap) || cuts_hidden() || refits()); }
  bool changes_embedding() const override { return cuts_hidden(); }
  void change_embedding(MatrixView hidden) const override {
    for (int64_t r = 0; r < hidden.rows; ++r)
      for (int64_t c = 0; c < hidden.cols; ++c)
        if (!keeps_hidden(c)) hidden.row(r)[c] = 0;
  }
  bool needs_drift_moment() const override { return targets_.compensates(); }
  bool needs_residual_moment() const override { return targets_.compensates(); }

  void finish(int64_t block, Tap tap, const InputStatistics& statistics) override {
    if (!stays(block)) return silence(block, tap);
    const auto cut = find_cut(model_.config(), sizes_, tap);
    if (!cut && !cuts_hidden() && !refits()) return;
    std::optional<std::vector<int64_t>> kept;
    if (cut) kept = choose(block, tap, *cut, statistics);
    for (const PlacedTensor& placed : model_.tensors())
      if (placed.block == block && placed.part == Part::weight && find_tap(placed.row->role) == tap && find_part(placed.row->role, placed.expert) == statistics.part) change(placed, tap, kept ? columns_of(*kept, cut->width) : cuts_hidden() && !adds_to_residual(tap) ? choice_.kept.hidden : columns_of_all(statistics.in()), statistics);
    if (cut) keep(choice_.kept, tap, std::move(*kept));
    has_changed_ = has_changed_ || cut.has_value();
  }

  json notes() const override { return {{"kv_groups", choice_.kept.kv_groups}, {"ffn", choice_.kept.ffn}, {"layers", layers_}, {"has_changed", has_changed_}}; }
  void restore_notes(const json& notes) override {
    choice_.kept.kv_groups = notes.at("kv_groups"), choice_.kept.ffn = notes.at("ffn");
    layers_ = notes.at("layers"), has_changed_ = notes.at("has_changed");
  }
  StructureChoice take_choice() {
    choice_.details["layers"] = std::move(layers_);
    return std::move(choice_);
  }

 private:
  bool stays(int64_t block) const { return std::ranges::binary_search(choice_.kept.blocks, block); }
  bool cuts_hidden() const { return !choice_.kept.hidden.empty(); }
  bool keeps_hidden(int64_t dimension) const { return !cuts_hidden() || std::ranges::binary_search(choice_.kept.hidden, dimension); }
  /// Whether inputs may differ from the float model's by now.
  bool refits() const { return targets_.compensates() && has_changed_; }

  static std::vector<int64_t> columns_of_all(int64_t count) {
    std::vector<int64_t> columns(static_cast<size_t>(count));
    std::iota(columns.begin(), columns.end(), 0);
    return columns;
  }

  /// A block that goes adds nothing.
  void silence(int64_t block, Tap tap) {
    has_changed_ = true;
    if (!adds_to_residual(tap)) return;
    for (const PlacedTensor& placed : model_.tensors())
      if (placed.block == block && find_tap(placed.row->role) == tap) placed.tensor->form = make_floats(*placed.tensor, Matrix(placed.tensor->rows(), placed.tensor->cols()).view());
  }

  static std::string where(int64_t block, Tap tap) { return fmt::format("block {}, {}", block, to_string(tap)); }

  std::vector<int64_t> choose(int64_t block, Tap tap, const Cut& cut, const InputStatistics& statistics) const {
    if (targets_.importance() == Importance::magnitude) return keep_highest(score_by_magnitude(model_, block, tap, cut), cut.kept);
    if (targets_.importance() == Importance::taylor) return keep_highest(taylor_.at({block, tap}), cut.kept);
    const Role role = reader_of(tap);
    const Matrix weights = read_matrix(model_.get(role, block));
    if (targets_.importance() == Importance::activation) return keep_highest(score_by_activation(weights.view(), statistics.mean_square(), cut.width), cut.kept);
    const Offset offset = model_.find(role, block, Part::bias) ? Offset::bias : Offset::none;
    return keep_by_loss(weights.view(), moment_for(statistics, offset).view(), cut.width, cut.kept, targets_.damping(), where(block, tap));
  }

  void change(const PlacedTensor& placed, Tap tap, const std::vector<int64_t>& columns, const InputStatistics& statistics) {
    StoredTensor& tensor = *placed.tensor;
    const Matrix weights = read_matrix(tensor);
    Matrix masked(weights.rows(), weights.cols());
    for (int64_t r = 0; r < weights.rows(); ++r)
      for (int64_t c : columns) masked.row(r)[c] = weights.row(r)[c];
    json row = {{"tensor", tensor.name}, {"removed_error", relative_output_error(weights.view(), masked.view(), statistics.second_moment.view())}};
    if (targets_.compensates()) {
      const StoredTensor* bias = model_.find(placed.row->role, placed.block, Part::bias);
      FittedLayer fitted = fit_kept(weights.view(), statistics, columns, bias ? Offset::bias : Offset::none, targets_.damping(), where(placed.block, tap));
      row["error"] = relative_output_error(weights.view(), fitted.weights.view(), statistics.second_moment.view());
      masked = std::move(fitted.weights);
      if (bias) add_to_bias(placed, fitted.bias_change);
    }
    for (int64_t r = 0; r < masked.rows() && adds_to_residual(tap); ++r)
      if (!keeps_hidden(r)) std::ranges::fill(masked.view().row_span(r), 0.0f);
    tensor.form = FloatData(std::move(masked));
    tensor.moved = true;
    layers_.push_back(std::move(row));
  }

  void add_to_bias(const PlacedTensor& weight, const std::vector<float>& change) {
    for (const PlacedTensor& placed : model_.tensors()) {
      if (placed.block != weight.block || placed.row != weight.row || placed.part != Part::bias) continue;
      Matrix bias = read_matrix(*placed.tensor);
      for (size_t i = 0; i < change.size(); ++i) bias.values()[i] += change[i];
      placed.tensor->form = make_floats(*placed.tensor, bias.view());
      placed.tensor->moved = true;
    }
  }

  Model& model_;
  const StructureTargets& targets_;
  Sizes sizes_;
  TaylorScores taylor_;
  StructureChoice choice_;
  json layers_ = json::array();
  bool has_changed_;
};

}  // namespace

StructureChoice choose_by_magnitude(const Model& model, const Sizes& sizes, const std::vector<int64_t>& kept_blocks, const HiddenChoice& hidden) {
  StructureChoice choice;
  choice.kept.blocks = kept_blocks, choice.kept.hidden = hidden.kept;
  for (int64_t block : kept_blocks)
    for (Tap tap : all_taps)
      if (const auto cut = find_cut(model.config(), sizes, tap)) keep(choice.kept, tap, keep_highest(score_by_magnitude(model, block, tap, *cut), cut->kept));
  return choice;
}

StructureChoice choose_in_sweep(Model& model, const StructureTargets& targets, const Sizes& sizes, const std::vector<int64_t>& kept_blocks, const HiddenChoice& hidden, const PassContext& context) {
  TaylorScores taylor;
  if (targets.importance() == Importance::taylor && (targets.ffn() || targets.heads())) taylor = score_by_taylor(model, sizes, context);
  StructurePruner pruner(model, targets, sizes, kept_blocks, hidden.kept, std::move(taylor));
  const auto errors = sweep(model, *context.calibration, context.sweep, pruner, context.run);
  StructureChoice choice = pruner.take_choice();
  for (const BlockError& error : errors) choice.details["blocks"].push_back({{"hidden_error", error.relative_error}});
  return choice;
}

}  // namespace llmc
