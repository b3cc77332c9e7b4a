#include "passes/quantize_rtn.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"
#include "passes/layerwise_quantizer.h"
#include "passes/rounding.h"

namespace llmc {

using nlohmann::json;

namespace {

/// Each weight on its own. Squared errors count by the mean square of the weight's input.
class NearestRounder final : public WeightRounder {
 public:
  explicit NearestRounder(const RangeOptions& range) : range_(range) {}

  void begin_tap(const InputStatistics& statistics, const std::string&) override { importance_ = statistics.mean_square(); }
  QuantizedMatrix round(ConstMatrixView weights, const QuantizeTarget& target, const InputStatistics&) override {
    return round_to_nearest(weights, target.scheme, target.scale_dtype(), range_, target.placed->tensor->name, importance_);
  }

 private:
  RangeOptions range_;
  std::vector<float> importance_;
};

class QuantizeRtn final : public Pass {
 public:
  QuantizeRtn(FieldReader fields, const std::string& where) : targets_(fields, RangeRule::minmax, where) {
    weighted_ = fields.find_bool("activation_weighted").value_or(false);
    if (weighted_ && targets_.range().rule != RangeRule::mse) throw Error(ErrorKind::usage, fmt::format("{}: activation_weighted makes sense only with observer mse", where));
    fields.finish();
  }

  json options() const override {
    json result = targets_.options();
    result["pass"] = "quantize.rtn";
    if (weighted_) result["activation_weighted"] = true;
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override { return targets_.plan(model); }
  bool needs_calibration() const override { return weighted_ || targets_.has_static_inputs(); }

  json run(Model& model, const PassContext& context) override {
    if (!needs_calibration()) return round_all(model, context.run);
    NearestRounder rounder(targets_.range());
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
      const Matrix values = read_matrix(tensor);
      tensor.form = round_to_nearest(values.view(), target.scheme, target.scale_dtype(), targets_.range(), tensor.name);
      weights += tensor.count();
      stage.advance();
    }
    const int64_t quantized = count_quantized(model) - before;
    if (quantized != static_cast<int64_t>(targets.size())) throw Error(ErrorKind::bug, fmt::format("quantized {} tensors, expected {}", quantized, targets.size()));
    return {{"tensors", targets.size()}, {"weights", weights}};
  }

  QuantizeTargets targets_;
  bool weighted_ = false;  ///< the clip search counts errors by the size of the inputs
};

}  // namespace

std::unique_ptr<Pass> make_quantize_rtn(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<QuantizeRtn>(std::move(fields), where);
}

}  // namespace llmc
