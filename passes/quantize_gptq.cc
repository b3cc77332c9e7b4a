#include "passes/quantize_gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "passes/gptq_rounder.h"
#include "passes/prune_targets.h"

namespace llmc {

using nlohmann::json;

namespace {

class QuantizeGptq final : public Pass {
 public:
  QuantizeGptq(FieldReader fields, const std::string& where) : targets_(fields, RangeRule::mse, where) {
    if (fields.find("sparsity") || fields.find("pattern")) {
      const PruneTargets zeros(fields, RankScope::tensor, where);
      if (zeros.scope() == RankScope::global) throw Error(ErrorKind::usage, fmt::format("{}: scope global makes no sense layer by layer; choose tensor or row", where));
      if (fields.find_string("order").value_or("natural") != "natural") throw Error(ErrorKind::usage, fmt::format("{}: with a sparsity the order is natural", where));
      sparsity_ = {.pattern = zeros.pattern(), .scope = zeros.scope(), .sparsity = zeros.sparsity()};
    }
    settings_ = read_gptq_settings(fields, {.order = sparsity_ ? RoundingOrder::natural : GptqSettings().order}, where);
    fields.finish();
  }

  json options() const override {
    json result = targets_.options();
    result["pass"] = "quantize.gptq";
    result.update(to_json(settings_));
    if (sparsity_) {
      result.update({{"sparsity", sparsity_->sparsity}, {"pattern", to_string(sparsity_->pattern)}});
      if (!sparsity_->pattern.is_n_of_m()) result["scope"] = to_string(sparsity_->scope);
    }
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override {
    std::vector<Treatment> treatments = targets_.plan(model);
    Problems problems;
    for (Treatment& treatment : treatments) {
      if (!sparsity_ || treatment.target->block < 0) continue;
      const StoredTensor& tensor = *treatment.target->tensor;
      if (const std::string reason = reason_against(sparsity_->pattern, tensor.rows(), tensor.cols()); !reason.empty()) problems.add(fmt::format("tensor {}: {}; exclude the tensor or choose another pattern", tensor.name, reason));
      treatment.description += fmt::format(", {:g} % zeros", 100 * sparsity_->sparsity);
      treatment.bits = std::min(treatment.bits, 1 + (1 - sparsity_->sparsity) * treatment.bits);
    }
    problems.throw_if_any(ErrorKind::usage, "quantize");
    return treatments;
  }
  bool needs_calibration() const override { return true; }

  json run(Model& model, const PassContext& context) override {
    GptqRounder rounder(settings_, targets_.range(), sparsity_);
    return quantize_layerwise(model, targets_, rounder, context);
  }

 private:
  QuantizeTargets targets_;
  GptqSettings settings_;
  std::optional<SparsityTarget> sparsity_;
};

}  // namespace

std::unique_ptr<Pass> make_quantize_gptq(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<QuantizeGptq>(std::move(fields), where);
}

}  // namespace llmc
