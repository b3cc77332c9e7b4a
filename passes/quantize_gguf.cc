#include "passes/quantize_gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "formats/codecs/gguf_codecs.h"
#include "passes/block_refinement.h"
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

/// How a tensor becomes blocks, given what is known of its input.
class BlockRounder {
 public:
  BlockRounder(BlockRounding rounding, const GptqSettings& settings) : rounding_(rounding), settings_(settings) {}

  bool corrects_drift() const { return rounding_ == BlockRounding::compensated && settings_.drift_correction; }

  /// Before the weights that read one input.
  void begin_input(const InputStatistics& statistics, const std::string& where) {
    importance_ = statistics.mean_square();
    if (rounding_ == BlockRounding::compensated) factor_ = factor_hessian(statistics.second_moment.view(), settings_.damping, settings_.order, where);
  }

  /// Returns what the report should say.
  json round(const GgufTarget& target, const InputStatistics& statistics) const {
    StoredTensor& tensor = *target.placed->tensor;
    const Matrix weights = read_matrix(tensor);
    const ConstMatrixView h = statistics.second_moment.view();
    const BlockMatrix searched = search_matrix(*target.type, weights.view(), importance_, tensor.name);
    json row = {{"tensor", tensor.name}, {"type", target.type->name}, {"search_error", relative_output_error(weights.view(), evaluate(searched).view(), h)}};
    if (rounding_ == BlockRounding::weighted) {
      store(tensor, searched);
      return row;
    }
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

  /// A tensor of whose input nothing is known.
  static json round_alone(const GgufTarget& target) {
    StoredTensor& tensor = *target.placed->tensor;
    store(tensor, search_matrix(*target.type, read_matrix(tensor).view(), {}, tensor.name));
    return {{"tensor", tensor.name}, {"type", target.type->name}};
  }

 private:
  static void store(StoredTensor& tensor, const BlockMatrix& rounded) { set_gguf_blocks(tensor, *rounded.type, pack(rounded)); }

  BlockRounding rounding_;
  GptqSettings settings_;
  std::vector<float> importance_;
  HessianFactor factor_;
};

class GgufVisitor final : public BlockVisitor {
 public:
  GgufVisitor(const std::vector<GgufTarget>& list, BlockRounder& rounder) : by_tap_(list), rounder_(rounder) {}

  bool needs_statistics(int64_t block, Tap tap) const override { return by_tap_.find(block, tap) != nullptr; }
  bool needs_drift_moment() const override { return rounder_.corrects_drift(); }
  void finish(int64_t block, Tap tap, const InputStatistics& statistics) override {
    const auto* due = by_tap_.find(block, tap);
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
    const std::string name = fields.find_string("rounding").value_or(rounding_names[static_cast<size_t>(rounding_)]);
    const auto found = std::ranges::find(rounding_names, name);
    if (found == rounding_names.end()) throw Error(ErrorKind::usage, fmt::format("{}: rounding '{}' is not known; expected weighted or compensated", where, name));
    rounding_ = static_cast<BlockRounding>(found - rounding_names.begin());
    if (rounding_ == BlockRounding::compensated) settings_ = read_gptq_settings(fields, settings_, where);
    fields.finish();
  }

  json options() const override {
    json result = {{"pass", "quantize.gguf"}, {"types", to_json(options_)}, {"rounding", rounding_names[static_cast<size_t>(rounding_)]}};
    if (rounding_ == BlockRounding::compensated) result.update(to_json(settings_));
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override {
    std::vector<Treatment> treatments;
    for (const GgufTarget& target : resolve(model)) {
      const std::string fallback = target.instead_of ? fmt::format(" instead of {}", target.instead_of->name) : "";
      treatments.push_back({target.placed, fmt::format("{}{}, {}", target.type->name, fallback, rounding_names[static_cast<size_t>(rounding_)]), target.type->bits_per_weight()});
    }
    return treatments;
  }
  bool needs_calibration() const override { return true; }

  json run(Model& model, const PassContext& context) override {
    const std::vector<GgufTarget> list = resolve(model);
    int64_t weights = 0;
    for (const GgufTarget& target : list) weights += target.placed->tensor->count();
    json result = {{"type", options_.type}, {"tensors", list.size()}, {"weights", weights}, {"layers", json::array()}, {"blocks", json::array()}};
    calibrate(model, list, context, result);
    check_done(list);
    return result;
  }

 private:
  std::vector<GgufTarget> resolve(const Model& model) const { return find_gguf_targets(model, options_, MixImportance::given); }

  /// Embedding and head first: blocks make up for what they do to their inputs.
  void calibrate(Model& model, const std::vector<GgufTarget>& list, const PassContext& context, json& result) const {
    BlockRounder rounder(rounding_, settings_);
    for (const GgufTarget& target : list) {
      const Role role = target.placed->row->role;
      if (target.placed->block >= 0) continue;
      const bool is_head = role == Role::output_head || (role == Role::token_embedding && model.config().tied_head);
      if (is_head) {
        const InputStatistics statistics = measure_head_input(model, *context.calibration, context.sweep.forward, context.run);
        rounder.begin_input(statistics, "input of the output head");
        result["layers"].push_back(rounder.round(target, statistics));
      } else {
        result["layers"].push_back(BlockRounder::round_alone(target));
      }
    }
    GgufVisitor visitor(list, rounder);
    const auto errors = sweep(model, *context.calibration, context.sweep, visitor, context.run);
    for (const json& row : visitor.notes()) result["layers"].push_back(row);
    for (const BlockError& error : errors) result["blocks"].push_back({{"hidden_error", error.relative_error}});
  }

  static void check_done(const std::vector<GgufTarget>& list) {
    for (const GgufTarget& target : list)
      if (find_gguf_type_of(*target.placed->tensor) != target.type) throw Error(ErrorKind::bug, fmt::format("tensor {}: was not rounded to {}", target.placed->tensor->name, target.type->name));
  }

  GgufOptions options_;
  BlockRounding rounding_ = BlockRounding::compensated;
  GptqSettings settings_ = {.refinements = 4};
};

}  // namespace

std::unique_ptr<Pass> make_quantize_gguf(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<QuantizeGguf>(std::move(fields), where);
}

}  // namespace llmc
