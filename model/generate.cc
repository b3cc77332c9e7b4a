#include "model/generate.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"
#include "model/attention.h"
#include "model/kernels.h"

namespace llmc {
namespace {

constexpr size_t together = 32;  ///< sequences that one pass over the weights serves; always the same, so that results are

/// The index that a point in [0, 1) falls on, of probabilities one after the other.
int32_t pick(std::span<const float> probabilities, double point) {
  for (size_t i = 0; i < probabilities.size(); ++i) {
    point -= probabilities[i];
    if (point < 0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(std::ranges::max_element(probabilities) - probabilities.begin());  // they add up to a little less than 1
}

}  // namespace

std::vector<std::vector<int32_t>> generate(const Model& model, const ForwardOptions& options, const std::vector<int32_t>& first_tokens, int64_t length, uint64_t seed, const std::string& name, const RunContext& context) {
  const ModelConfig& config = model.config();
  for (const Rope& rope : {config.rope, config.window_rope})
    if (rope.scaling == RopeScaling::longrope && rope.depends_on(length)) throw Error(ErrorKind::usage, fmt::format("sequences of {} tokens cannot be generated: from {} on all their positions have other factors (longrope)", length, rope.original_context));
  const Forward forward(model, options);
  std::vector<std::shared_ptr<const BlockWeights>> blocks;
  for (int64_t block = 0; block < config.layers; ++block) blocks.push_back(forward.load_block(block));
  const auto head = forward.load_head();

  std::vector<std::vector<int32_t>> sequences;
  std::vector<Random> random;
  for (const int32_t token : first_tokens) {
    sequences.push_back({token});
    random.emplace_back(seed, fmt::format("{}, sequence {}", name, random.size()));
  }
  const auto groups = static_cast<int64_t>((sequences.size() + together - 1) / together);
  Stage stage(context, "generate", groups * (length - 1));
  parallel_for(groups, [&](int64_t group) {
    const size_t begin = static_cast<size_t>(group) * together, count = std::min(together, sequences.size() - begin);
    const auto rows = static_cast<int64_t>(count);
    std::vector<KeyValueCache> caches;
    for (int64_t block = 0; block < config.layers; ++block) caches.emplace_back(config.at_block(block), rows, length - 1);
    Matrix hidden(rows, config.hidden), logits(rows, config.vocabulary);
    for (int64_t position = 0; position + 1 < length; ++position) {
      std::vector<int32_t> tokens;
      for (size_t i = 0; i < count; ++i) tokens.push_back(sequences[begin + i].back());
      forward.embed_next(tokens, position, hidden.view());
      for (size_t block = 0; block < blocks.size(); ++block) forward.run_block_next(*blocks[block], hidden.view(), caches[block]);
      forward.run_head(*head, hidden.view(), logits.view());
      parallel_for(rows, [&](int64_t r) {
        softmax(logits.view().row_span(r));
        sequences[begin + static_cast<size_t>(r)].push_back(pick(logits.view().row_span(r), random[begin + static_cast<size_t>(r)].uniform()));
      });
      stage.advance();
    }
  });
  return sequences;
}

}  // namespace llmc
