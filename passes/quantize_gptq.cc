#include "passes/quantize_gptq.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"
#include "passes/gptq.h"
#include "passes/layerwise_quantizer.h"
#include "passes/refinement.h"

namespace llmc {

using nlohmann::json;

namespace {

struct Settings {
  double damping = 0.01;
  RoundingOrder order = RoundingOrder::activation;
  int64_t refinements = 0;
  bool drift_correction = false;
};

class GptqRounder final : public WeightRounder {
 public:
  GptqRounder(const Settings& settings, const RangeOptions& range) : settings_(settings), range_(range) {}

  bool needs_cross_moment() const override { return settings_.drift_correction; }

  void begin_tap(const InputStatistics& statistics, const std::string& where) override { factor_ = factor_hessian(statistics.second_moment.view(), settings_.damping, settings_.order, where); }

  QuantizedMatrix round(ConstMatrixView weights, const QuantizeTarget& target, const InputStatistics& statistics) override {
    Matrix corrected;
    if (settings_.drift_correction) {
      corrected = correct_for_drift(weights, statistics.second_moment.view(), statistics.cross_moment.view(), factor_.damping);
      weights = corrected.view();
    }
    QuantizedMatrix rounded = quantize_gptq(weights, factor_, target.scheme, target.scale_dtype(), range_, target.placed->tensor->name);
    refine_rounding(rounded, weights, statistics.second_moment.view(), settings_.refinements);
    return rounded;
  }

  json describe_tap() const override { return {{"damping", factor_.damping}, {"dead_channels", factor_.dead}}; }

 private:
  Settings settings_;
  RangeOptions range_;
  HessianFactor factor_;
};

class QuantizeGptq final : public Pass {
 public:
  QuantizeGptq(FieldReader fields, const std::string& where) : targets_(fields, RangeRule::mse, where) {
    settings_.damping = fields.find_number("damping").value_or(settings_.damping);
    if (!(settings_.damping >= 0 && settings_.damping <= 1)) throw Error(ErrorKind::usage, fmt::format("{}: damping: expected 0 to 1, found {}", where, settings_.damping));
    const std::string order = fields.find_string("order").value_or(std::string(to_string(settings_.order)));
    if (order != to_string(RoundingOrder::natural) && order != to_string(RoundingOrder::activation)) throw Error(ErrorKind::usage, fmt::format("{}: order '{}' is not known; expected natural or activation", where, order));
    settings_.order = order == to_string(RoundingOrder::natural) ? RoundingOrder::natural : RoundingOrder::activation;
    settings_.refinements = fields.find_int("refinements").value_or(settings_.refinements);
    if (settings_.refinements < 0 || settings_.refinements > 1000) throw Error(ErrorKind::usage, fmt::format("{}: refinements: expected 0 to 1000, found {}", where, settings_.refinements));
    settings_.drift_correction = fields.find_bool("drift_correction").value_or(settings_.drift_correction);
    fields.finish();
  }

  json options() const override {
    json result = targets_.options();
    result.update({{"pass", "quantize.gptq"}, {"damping", settings_.damping}, {"order", to_string(settings_.order)}, {"refinements", settings_.refinements}, {"drift_correction", settings_.drift_correction}});
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
  Settings settings_;
};

}  // namespace

std::unique_ptr<Pass> make_quantize_gptq(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<QuantizeGptq>(std::move(fields), where);
}

}  // namespace llmc
