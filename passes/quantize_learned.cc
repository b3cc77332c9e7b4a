#include "passes/quantize_learned.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "model/block_tensors.h"
#include "passes/gptq_rounder.h"
#include "passes/learned_rounding.h"

namespace llmc {

using nlohmann::json;

namespace {

class LearnedRounder final : public GptqRounder {
 public:
  LearnedRounder(const GptqSettings& settings, const RangeOptions& range, const LearnedRoundingOptions& options, const RunContext& context) : GptqRounder(settings, range), options_(options), context_(context) {}

  bool tunes_blocks() const override { return true; }

  json tune_block(const ModelConfig& config, int64_t block, const BlockTensors& values, std::map<Role, QuantizedMatrix>& rounded, const ActivationStore& inputs, const ActivationStore& outputs) override {
    LearnedRounding learned = learn_rounding(config.at_block(block), values, std::move(rounded), make_block_samples(inputs, outputs), options_, fmt::format("learned rounding, block {}", block), context_);
    rounded = std::move(learned.weights);
    return {{"error_before", learned.error_before}, {"error_after", learned.error_after}};
  }

 private:
  LearnedRoundingOptions options_;
  const RunContext& context_;
};

class QuantizeLearned final : public Pass {
 public:
  QuantizeLearned(FieldReader fields, const std::string& where) : targets_(fields, RangeRule::mse, where), gptq_(read_gptq_settings(fields, {}, where)) {
    for (const auto& [name, count] : {std::pair("iterations", &learning_.iterations), std::pair("batch", &learning_.batch)}) {
      *count = fields.find_int(name).value_or(*count);
      if (*count < 1 || *count > 1'000'000) throw Error(ErrorKind::usage, fmt::format("{}: {}: expected 1 to 1000000, found {}", where, name, *count));
    }
    fields.finish();
  }

  json options() const override {
    json result = targets_.options();
    result.update(to_json(gptq_));
    result.update({{"pass", "quantize.learned"}, {"iterations", learning_.iterations}, {"batch", learning_.batch}});
    return result;
  }

  std::vector<Treatment> plan(const Model& model) const override {
    check_trainable(model, "quantize.learned");
    return targets_.plan(model);
  }
  bool needs_calibration() const override { return true; }

  json run(Model& model, const PassContext& context) override {
    LearnedRoundingOptions options = learning_;
    options.seed = context.seed;
    options.precision = context.sweep.forward.precision;
    options.backend = context.sweep.forward.backend;
    LearnedRounder rounder(gptq_, targets_.range(), options, context.run);
    return quantize_layerwise(model, targets_, rounder, context);
  }

 private:
  QuantizeTargets targets_;
  GptqSettings gptq_;
  LearnedRoundingOptions learning_;
};

}  // namespace

std::unique_ptr<Pass> make_quantize_learned(const json& step, const std::string& where) {
  FieldReader fields(step, where);
  fields.get_string("pass");
  return std::make_unique<QuantizeLearned>(std::move(fields), where);
}

}  // namespace llmc
