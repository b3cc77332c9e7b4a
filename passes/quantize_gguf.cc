#include "passes/quantize_gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "calib/imatrix_collector.h"
#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "formats/codecs/gguf_codecs.h"
#include "passes/block_refinement.h"
#include "passes/gguf_importance.h"
#include "passes/gguf_targets.h"
#include "passes/gptq_blocks.h"
#include "passes/gptq_rounder.h"
#include "passes/head_statistics.h"
#include "passes/tap_targets.h"

namespace llmc {

using nlohmann::json;

namespace {

enum class BlockRounding { weighted, compensated };
constexpr std::array rounding_names = {"weighted", "compensated"};

void store(StoredTensor& tensor, const BlockMatrix& rounded) { set_gguf_blocks(tensor, *rounded.type, pack(rounded)); }

/// Σ m (w − ŵ)² / Σ m w², m the mean square of the column's input: the relative output error if columns were independent.
double weighted_error(ConstMatrixView weights, ConstMatrixView rounded, std::span<const float> mean_square) {
  std::vector<std::pair<double, double>> rows(static_cast<size_t>(weights.rows));  // error and size, so that the sums have one order
  parallel_pieces(weights.rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < weights.cols; ++c) {
        const double w = weights.row(r)[c], difference = w - rounded.row(r)[c], m = mean_square[static_cast<size_t>(c)];
        rows[static_cast<size_t>(r)].first += m * difference * difference;
        rows[static_cast<size_t>(r)].second += m * w * w;
      }
  });
  double error = 0, size = 0;
  for (const auto& row : rows) error += row.first, size += row.second;
  return size > 0 ? error / size : 0;
}

/// Every block for itself; `mean_square` of the input by column, empty when nothing is known of it. Returns what the report should say.
json round_alone(const GgufTarget& target, std::span<const float> mean_square) {
  StoredTensor& tensor = *target.placed->tensor;
  const Matrix weights = read_matrix(tensor);
  const BlockMatrix searched = search_matrix(*target.type, weights.view(), mean_square, tensor.name);
  json row = {{"tensor", tensor.name}, {"type", target.type->name}};
  if (!mean_square.empty()) row["weighted_error"] = weighted_error(weights.view(), evaluate(searched).view(), mean_square);
  store(tensor, searched);
  return row;
}

/// Blocks that make up for each other's errors.
class BlockRounder {
 public:
  explicit BlockRounder(const GptqSettings& settings) : settings_(settings) {}

  bool corrects_drift() const { return settings_.drift_correction; }

  /// Before the weights that read one input.
  void begin_input(const InputStatistics& statistics, const std::string& where) {
    importance_ = statistics.mean_square();
    factor_ = factor_hessian(statistics.second_moment.view(), settings_.damping, settings_.order, where);
  }

  /// Returns what the report should say.
  json round(const GgufTarget& target, const InputStatistics& statistics) const {
    StoredTensor& tensor = *target.placed->tensor;
    const Matrix weights = read_matrix(tensor);
    const ConstMatrixView h = statistics.second_moment.view();
    const BlockMatrix searched = search_matrix(*target.type, weights.view(), importance_, tensor.name);
    json row = {{"tensor", tensor.name}, {"type", target.type->name}, {"search_error", relative_output_error(weights.view(), evaluate(searched).view(), h)}};
    Matrix corrected;
    const bool corrects = corrects_drift() && !statistics.drift_moment.empty();
    if (corrects) corrected = correct_for_drift(weights.view(), statistics.drift_moment.view(), factor_);
    const ConstMatrixView wanted = corrects ? corrected.view() : weights.view();
    BlockMatrix rounded = quantize_gptq_blocks(*target.type, wanted, factor_, importance_, tensor.name);
    refine_blocks(rounded, wanted, h, settings_.refinements);
    row["error"] = relative_output_error(weights.view(), evaluate(rounded).view(), h);
    row["damping"] = factor_.damping;
    row["dead_channels"] = factor_.dead;
    store(tensor, rounded);
    return row;
  }

 private:
  GptqSettings settings_;
  std::vector<float> importance_;
  HessianFactor factor_;
};

class GgufVisitor final : public BlockVisitor {
 public:
  GgufVisitor(const std::vector<GgufTarget>& list, BlockRounder& rounder) : by_tap_(list), rounder_(rounder) {}

  bool needs_statistics(int64_t block, Tap tap) const override { return by_tap_.has(block, tap); }
  bool needs_drift_moment() const override { return rounder_.corrects_drift(); }
  void finish(int64_t block, Tap tap, const InputStatistics& statistics) override {
    const auto* due = by_tap_.find(block, tap, statistics.part);
    if (!due) return;
    rounder_.begin_input(statistics, fmt::format("block {}, {}", block, to_string(tap)));
    for (const GgufTarget& target : *due) layers_.push_back(rounder_.round(target, statistics));
  }
  json notes() const override { return layers_; }
  void restore_notes(const json& notes) override { layers_ = notes; }

 private:
  TapTargets<GgufTarget> by_tap_;
  BlockRounder& rounder_;
  json layers_ = json::array();
};

class QuantizeGguf final : public Pass {
 public:
  QuantizeGguf(FieldReader fields, const std::string& where) {
    const json* types = fields.find("types");
    if (!types) throw Error(ErrorKind::usage, fmt::format("{}: types is missing; expected such as {{type: Q4_K_M}}", where));
    options_ = read_gguf_options(*types, where + ": types");
    if (stores_floats(options_)) throw Error(ErrorKind::usage, fmt::format("{}: types: {} holds plain floats, there is nothing to round", where, options_.type));
    imatrix_ = fields.find_string("imatrix");
    if (imatrix_) rounding_ = BlockRounding::weighted;
    const std::string name = fields.find_string("rounding").value_or(rounding_names[static_cast<size_t>(rounding_)]);
    const auto found = std::ranges::find(rounding_names, name);
    if (found == rounding_names.end()) throw Error(ErrorKind::usage, fmt::format("{}: rounding '{}' is not known; expected weighted or compensated", where, name));
    rounding_ = static_cast<BlockRounding>(found - rounding_names.begin());
    if (imatrix_ && rounding_ != BlockRounding::weighted) throw Error(ErrorKind::usage, fmt::format("{}: imatrix makes no sense with rounding {}: the file says how large each input is, but making up for errors takes the products of all pairs; calibrate instead", where, name));
    if (rounding_ == BlockRounding::compensated) settings_ = read_gptq_settings(fields, settings_, where);
    fields.finish();
  }

  json options() const override {
    json result = {{"pass", "quantize.gguf"}, {"types", to_json(options_)}, {"rounding", rounding_names[static_cast<size_t>(rounding_)]}};
    if (rounding_ == BlockRounding::compensated) result.update(to_json(settings_));
    if (imatrix_) result["imatrix"] = *imatrix_;
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override {
    const std::vector<GgufTarget> list = resolve(model);
    const auto importance = imatrix_ ? find_importance(read_imatrix(), model, list, *imatrix_) : std::vector<std::vector<float>>();
    std::vector<Treatment> treatments;
    for (size_t i = 0; i < list.size(); ++i) {
      const GgufTarget& target = list[i];
      const std::string fallback = target.instead_of ? fmt::format(" instead of {}", target.instead_of->name) : "";
      const bool is_known = imatrix_ ? !importance[i].empty() : target.placed->block >= 0 || is_head(model, target);
      treatments.push_back({target.placed, fmt::format("{}{}, {}", target.type->name, fallback, is_known ? rounding_names[static_cast<size_t>(rounding_)] : "search"), target.type->bits_per_weight()});
    }
    return treatments;
  }
  bool needs_calibration() const override { return !imatrix_; }

  json run(Model& model, const PassContext& context) override {
    const std::vector<GgufTarget> list = resolve(model);
    int64_t weights = 0;
    for (const GgufTarget& target : list) weights += target.placed->tensor->count();
    json result = {{"type", options_.type}, {"tensors", list.size()}, {"weights", weights}, {"layers", json::array()}};
    for (const PlacedTensor& placed : model.tensors())
      if (is_vector(placed)) widen(*placed.tensor);
    if (rounding_ == BlockRounding::weighted) weigh(model, list, context, result);
    else calibrate(model, list, context, result);
    check_done(list);
    return result;
  }

 private:
  /// Files hold vectors in f32, so that steps to come may use all of it.
  static void widen(StoredTensor& tensor) {
    tensor.form = FloatData(read_matrix(tensor));
    tensor.dtype = DType::f32;
  }

  std::vector<GgufTarget> resolve(const Model& model) const { return find_gguf_targets(model, options_, MixImportance::given); }

  static bool is_head(const Model& model, const GgufTarget& target) { return target.placed->tensor == &model.get(Role::output_head); }

  Imatrix read_imatrix() const { return parse_imatrix(MappedFile(*imatrix_).bytes(), *imatrix_); }

  void weigh(const Model& model, const std::vector<GgufTarget>& list, const PassContext& context, json& result) const {
    const Imatrix imatrix = imatrix_ ? read_imatrix() : collect_imatrix(model, *context.calibration, context.sweep, context.run);
    const auto importance = find_importance(imatrix, model, list, imatrix_.value_or("imatrix"));
    if (imatrix_) result["imatrix"] = {{"file", *imatrix_}, {"sha256", sha256(MappedFile(*imatrix_).bytes())}, {"entries", imatrix.entries.size()}, {"datasets", imatrix.datasets}, {"chunks", imatrix.chunk_count}, {"chunk_size", imatrix.chunk_size}};
    Stage stage(context.run, "round", std::ssize(list));
    for (size_t i = 0; i < list.size(); ++i) {
      if (importance[i].empty() && is_head(model, list[i])) context.run.sink.warn(fmt::format("{}: has no entry for the head, {}: its errors are not weighed (llmc imatrix writes such an entry)", *imatrix_, list[i].placed->tensor->name));
      result["layers"].push_back(round_alone(list[i], importance[i]));
      stage.advance();
    }
  }

  /// Embedding and head first: blocks make up for what they do to their inputs.
  void calibrate(Model& model, const std::vector<GgufTarget>& list, const PassContext& context, json& result) const {
    BlockRounder rounder(settings_);
    for (const GgufTarget& target : list) {
      if (target.placed->block >= 0) continue;
      if (is_head(model, target)) {
        const InputStatistics statistics = measure_head_input(model, *context.calibration, context.sweep.forward, context.run);
        rounder.begin_input(statistics, "input of the output head");
        result["layers"].push_back(rounder.round(target, statistics));
      } else {
        result["layers"].push_back(round_alone(target, {}));
      }
    }
    GgufVisitor visitor(list, rounder);
    const auto errors = sweep(model, *context.calibration, context.sweep, visitor, context.run);
    for (const json& row : visitor.notes()) result["layers"].push_back(row);
    result["blocks"] = json::array();
    for (const BlockError& error : errors) result["blocks"].push_back({{"hidden_error", error.relative_error}});
  }

  static void check_done(const std::vector<GgufTarget>& list) {
    for (const GgufTarget& target : list)
      if (find_gguf_type_of(*target.placed->tensor) != target.type) throw Error(ErrorKind::bug, fmt::format("tensor {}: was not rounded to {}", target.placed->tensor->name, target.type->name));
  }

  GgufOptions options_;
  BlockRounding rounding_ = BlockRounding::compensated;
  std::optional<std::string> imatrix_;  ///< the file, for weighted
  GptqSettings settings_ = {.refinements = 4};
};

}  // namespace

std::unique_ptr<Pass> make_quantize_gguf(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<QuantizeGguf>(std::move(fields), where);
}

}  // namespace llmc
