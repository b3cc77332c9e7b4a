#include "model/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

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

/// Throws Error(usage) where keys that are kept would have to be rotated anew, as sequences grow from `first` tokens to `length`.
void check_factors(const ModelConfig& config, int64_t first, int64_t length) {
  for (const Rope& rope : {config.rope, config.window_rope})
    if (rope.scaling == RopeScaling::longrope && rope.depends_on(length) && !rope.depends_on(first)) throw Error(ErrorKind::usage, fmt::format("sequences of {} tokens cannot be generated: from {} on all their positions have other factors (longrope)", length, rope.original_context));
}

/// A model with all of its weights ready.
struct LoadedModel {
  LoadedModel(const Model& of, const ForwardOptions& options, const RunContext& context) : model(of), forward(of, options), head(forward.load_head()) {
    for (int64_t block = 0; block < of.config().layers; ++block) {
      context.check_stop();
      blocks.push_back(forward.load_block(block));
    }
  }

  const Model& model;
  const Forward forward;
  std::vector<std::shared_ptr<const BlockWeights>> blocks;
  std::shared_ptr<const HeadWeights> head;
};

/// Sequences of one length that grow together.
class GrowingSequences {
 public:
  GrowingSequences(const LoadedModel& loaded, int64_t sequences, int64_t capacity) : loaded_(loaded), hidden_(sequences, loaded.model.config().hidden), logits_(sequences, loaded.model.config().vocabulary) {
    for (int64_t block = 0; block < loaded.model.config().layers; ++block) caches_.emplace_back(loaded.model.config().at_block(block), sequences, capacity);
  }

  /// The same tokens in all of them, which must be empty. Logits [sequences, vocabulary] of what follows.
  MatrixView start(std::span<const int32_t> tokens, const RunContext& context) {
    Stage stage(context, "prompt", std::ssize(caches_));
    Matrix hidden(static_cast<int64_t>(tokens.size()), hidden_.cols());
    loaded_.forward.embed(tokens, hidden.view());
    for (size_t block = 0; block < caches_.size(); ++block) {
      loaded_.forward.run_block(*loaded_.blocks[block], hidden.view(), &caches_[block]);
      stage.advance();
    }
    for (int64_t r = 0; r < hidden_.rows(); ++r) std::ranges::copy(hidden.view().row_span(hidden.rows() - 1), hidden_.row(r));
    return predict();
  }

  /// One more token in each.
  MatrixView next(std::span<const int32_t> tokens) {
    loaded_.forward.embed_next(tokens, caches_.front().length(), hidden_.view());
    for (size_t block = 0; block < caches_.size(); ++block) loaded_.forward.run_block_next(*loaded_.blocks[block], hidden_.view(), caches_[block]);
    return predict();
  }

 private:
  MatrixView predict() {
    loaded_.forward.run_head(*loaded_.head, hidden_.view(), logits_.view());
    return logits_.view();
  }

  const LoadedModel& loaded_;
  Matrix hidden_, logits_;
  std::vector<KeyValueCache> caches_;
};

}  // namespace

std::vector<std::vector<int32_t>> generate(const Model& model, const ForwardOptions& options, const std::vector<int32_t>& first_tokens, int64_t length, uint64_t seed, const std::string& name, const RunContext& context) {
  check_factors(model.config(), 1, length);
  const LoadedModel loaded(model, options, context);
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
    GrowingSequences growing(loaded, rows, length - 1);
    for (int64_t position = 0; position + 1 < length; ++position) {
      std::vector<int32_t> tokens;
      for (size_t i = 0; i < count; ++i) tokens.push_back(sequences[begin + i].back());
      const MatrixView logits = growing.next(tokens);
      parallel_for(rows, [&](int64_t r) {
        softmax(logits.row_span(r));
        sequences[begin + static_cast<size_t>(r)].push_back(pick(logits.row_span(r), random[begin + static_cast<size_t>(r)].uniform()));
      });
      stage.advance();
    }
  });
  return sequences;
}

int32_t draw_token(std::span<float> logits, const Sampling& sampling, double point) {
  if (std::ranges::any_of(logits, [](float value) { return std::isnan(value); })) throw Error(ErrorKind::input, "a logit is NaN: there is no next token to choose");
  const auto highest = static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
  const float most = logits[static_cast<size_t>(highest)];
  if (!std::isfinite(most)) throw Error(ErrorKind::input, fmt::format("the largest logit is {}: there is no next token to choose", most));
  if (sampling.temperature == 0) return highest;
  for (float& value : logits) value = static_cast<float>((value - most) / sampling.temperature);
  if (sampling.top_k == 0 && sampling.top_p == 1) {
    softmax(logits);
    return pick(logits, point);
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
  if (sampling.top_k > 0 && sampling.top_k < static_cast<int64_t>(order.size())) order.resize(static_cast<size_t>(sampling.top_k));
  std::vector<float> left;
  for (const int32_t token : order) left.push_back(logits[static_cast<size_t>(token)]);
  softmax(left);
  double sum = 0;
  size_t kept = 0;
  while (kept < left.size() && (kept == 0 || sum < sampling.top_p)) sum += left[kept++];
  left.resize(kept);
  return order[static_cast<size_t>(pick(left, point * sum))];
}

std::vector<Continuation> continue_prompt(const Model& model, const ForwardOptions& options, std::span<const int32_t> prompt, const ContinuationOptions& wanted, const RunContext& context) {
  const auto length = static_cast<int64_t>(prompt.size()), most = model.config().longest_text();
  if (length > most) throw Error(ErrorKind::input, fmt::format("the prompt's {} tokens are more than the model's context of {}", length, most));
  const int64_t tokens = std::min(wanted.most_tokens, most - length);
  const auto samples = static_cast<size_t>(wanted.samples);
  std::vector<Continuation> continuations(samples, Continuation{.ending = tokens < wanted.most_tokens ? Ending::context : Ending::most_tokens});
  if (tokens == 0) return continuations;
  check_factors(model.config(), length, length + tokens - 1);
  std::vector<Random> random;
  for (size_t i = 0; i < samples; ++i) random.emplace_back(wanted.seed, fmt::format("continuation {}", i));

  const LoadedModel loaded(model, options, context);
  GrowingSequences growing(loaded, wanted.samples, length + tokens - 1);
  std::vector<int32_t> last(samples);
  std::vector<bool> finished(samples);
  MatrixView logits = growing.start(prompt, context);
  Stage stage(context, "generate", tokens);
  for (int64_t count = 1;; ++count) {
    context.check_stop();
    for (size_t i = 0; i < samples; ++i) {
      if (finished[i]) continue;
      last[i] = draw_token(logits.row_span(static_cast<int64_t>(i)), wanted.sampling, random[i].uniform());
      continuations[i].tokens.push_back(last[i]);
      finished[i] = std::ranges::find(wanted.end_tokens, last[i]) != wanted.end_tokens.end();
      if (finished[i]) continuations[i].ending = Ending::end_token;
    }
    stage.advance();
    if (count == tokens || std::ranges::all_of(finished, std::identity())) return continuations;
    logits = growing.next(last);
  }
}

}  // namespace llmc
