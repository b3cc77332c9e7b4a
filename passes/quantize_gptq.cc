#include "passes/quantize_gptq.h"

#include "core/json.h"
#include "passes/gptq_rounder.h"

namespace llmc {

using nlohmann::json;

namespace {

class QuantizeGptq final : public Pass {
 public:
  QuantizeGptq(FieldReader fields, const std::string& where) : targets_(fields, RangeRule::mse, where) {
    settings_ = read_gptq_settings(fields, {}, where);
    fields.finish();
  }

  json options() const override {
    json result = targets_.options();
    result["pass"] = "quantize.gptq";
    result.update(to_json(settings_));
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override { return targets_.plan(model); }
  bool needs_calibration() const override { return true; }

  json run(Model& model, const PassContext& context) override {
    GptqRounder rounder(settings_, targets_.range());
    return quantize_layerwise(model, targets_, rounder, context);
  }

 private:
  QuantizeTargets targets_;
  GptqSettings settings_;
};

}  // namespace

std::unique_ptr<Pass> make_quantize_gptq(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<QuantizeGptq>(std::move(fields), where);
}

}  // namespace llmc
