#include "calib/generated_samples.h"

#include "calib/model_tokens.h"
#include "core/random.h"
#include "model/generate.h"

namespace llmc {

void add_generated_samples(CalibrationData& data, const Model& model, const CalibrationOptions& options, uint64_t seed, const RunContext& context) {
  const auto begin = find_begin_token(model, nullptr);
  Random random(seed, "first tokens of generated samples");
  std::vector<int32_t> first;
  for (int64_t i = 0; i < options.generated; ++i) {
    const auto& sample = data.samples[random.below(data.samples.size())];
    first.push_back(begin ? *begin : sample[random.below(sample.size())]);
  }
  for (auto& sequence : generate(model, {.precision = options.precision}, first, data.seqlen, seed, "generated samples", context)) data.samples.push_back(std::move(sequence));
  data.generated_samples = options.generated;
}

}  // namespace llmc
