#include "passes/quantize_rtn.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"
#include "passes/group_scales.h"
#include "passes/hessian.h"
#include "passes/layerwise_quantizer.h"
#include "passes/rounding.h"

namespace llmc {

using nlohmann::json;

namespace {

/// What an error counts in the search for a grid.
enum class ErrorWeight {
  one,
  inputs,  ///< the mean square of the weight's input; and groups' scales go by the error of their output in the end
};

/// Each weight on its own.
class NearestRounder final : public WeightRounder {
 public:
  NearestRounder(const RangeOptions& range, ErrorWeight weight) : range_(range), weight_(weight) {}

  void begin_tap(const InputStatistics& statistics, const std::string&) override {
    if (weight_ == ErrorWeight::inputs) importance_ = statistics.mean_square();
  }
  QuantizedMatrix round(ConstMatrixView weights, const QuantizeTarget& target, const InputStatistics& statistics) override {
    QuantizedMatrix rounded = round_to_nearest(weights, target.scheme, target.scale_dtype(), target.range(range_), target.placed->tensor->name, importance_);
    if (weight_ == ErrorWeight::one) return rounded;
    const ConstMatrixView h = statistics.second_moment.view();
    search_group_scales(rounded, weights, h);
    // The search goes by the diagonal of H, and by its blocks: the whole of it decides.
    QuantizedMatrix plain = round_to_nearest(weights, target.scheme, target.scale_dtype(), target.range({}), target.placed->tensor->name);
    return output_error(weights, dequantize(rounded).view(), h) <= output_error(weights, dequantize(plain).view(), h) ? std::move(rounded) : std::move(plain);
  }

 private:
  RangeOptions range_;
  ErrorWeight weight_;
  std::vector<float> importance_;  ///< empty: all alike
};

/// The defaults of a pass that rounds to nearest.
struct RtnRow {
  const char* pass;
  RangeRule rule;
  ErrorWeight weight;
  ScalingRule scaling;
};
constexpr RtnRow rtn{"quantize.rtn", RangeRule::minmax, ErrorWeight::one, ScalingRule::none};
constexpr RtnRow awq{"quantize.awq", RangeRule::mse, ErrorWeight::inputs, ScalingRule::awq};  // Lin 2023: scales, then clipping

bool is_searched(RangeRule rule) { return rule == RangeRule::mse || rule == RangeRule::hqq; }

class QuantizeRtn final : public Pass {
 public:
  QuantizeRtn(const RtnRow& method, FieldReader fields, const std::string& where) : method_(method), targets_(fields, method.rule, where, method.scaling) {
    const bool can_weigh = is_searched(targets_.range().rule);
    const bool weighted = fields.find_bool("activation_weighted").value_or(can_weigh && method.weight == ErrorWeight::inputs);
    if (weighted && !can_weigh) throw Error(ErrorKind::usage, fmt::format("{}: activation_weighted makes sense only with observer mse or hqq", where));
    weight_ = weighted ? ErrorWeight::inputs : ErrorWeight::one;
    fields.finish();
  }

  json options() const override {
    json result = targets_.options();
    result["pass"] = method_.pass;
    if (weight_ != method_.weight) result["activation_weighted"] = weight_ == ErrorWeight::inputs;
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override { return targets_.plan(model); }
  bool needs_calibration() const override { return weight_ == ErrorWeight::inputs || targets_.scaling().is_active() || targets_.has_static_inputs(); }

  json run(Model& model, const PassContext& context) override {
    if (!needs_calibration()) return round_all(model, context.run);
    NearestRounder rounder(targets_.range(), weight_);
    return quantize_layerwise(model, targets_, rounder, context);
  }

 private:
  json round_all(Model& model, const RunContext& context) const {
    const auto targets = targets_.resolve(model);
    const int64_t before = count_quantized(model);
    int64_t weights = 0;
    Stage stage(context, "quantize", static_cast<int64_t>(targets.size()));
    for (const QuantizeTarget& target : targets) {
      StoredTensor& tensor = *target.placed->tensor;
      tensor.form = round_target(target, targets_);
      weights += tensor.count();
      stage.advance();
    }
    const int64_t quantized = count_quantized(model) - before;
    if (quantized != static_cast<int64_t>(targets.size())) throw Error(ErrorKind::bug, fmt::format("quantized {} tensors, expected {}", quantized, targets.size()));
    return {{"tensors", targets.size()}, {"weights", weights}};
  }

  const RtnRow& method_;
  QuantizeTargets targets_;
  ErrorWeight weight_ = ErrorWeight::one;
};

std::unique_ptr<Pass> make_rtn(const RtnRow& method, const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<QuantizeRtn>(method, std::move(fields), where);
}

}  // namespace

std::unique_ptr<Pass> make_quantize_rtn(const json& step, const std::string& where) { return make_rtn(rtn, step, where); }
std::unique_ptr<Pass> make_quantize_awq(const json& step, const std::string& where) { return make_rtn(awq, step, where); }

}  // namespace llmc
