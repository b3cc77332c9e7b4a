// Owns generation: a model writes, several sequences at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/run_context.h"
#include "model/forward.h"

namespace llmc {

/// Every sequence of `length` tokens: the first one given, each of the others drawn from the model's own distribution
/// (temperature 1) after those before. The random stream of a sequence has the name `name` and its number; results do not
/// depend on the number of threads. Memory: the model's weights, and for each thread the keys and values of 32 sequences.
/// Throws Error(input) when a sequence is longer than the model's positions.
std::vector<std::vector<int32_t>> generate(const Model& model, const ForwardOptions& options, const std::vector<int32_t>& first_tokens, int64_t length, uint64_t seed, const std::string& name, const RunContext& context);

/// How a token is drawn from logits, in this order.
struct Sampling {
  double temperature = 0;  ///< logits are divided by it; 0: the highest logit is taken, the first among equals
  int64_t top_k = 0;       ///< of the highest logits only, those with the lower ids among equals; 0: all
  double top_p = 1;        ///< of the fewest tokens, from the likeliest on, that have this probability together (Holtzman 2020)
};
/// A token, by a point in [0, 1) on the probabilities that are left. `logits` is overwritten. Throws Error(input) when a logit is NaN.
int32_t draw_token(std::span<float> logits, const Sampling& sampling, double point);

struct ContinuationOptions {
  Sampling sampling;
  int64_t samples = 1;              ///< continuations, each with random numbers of its own
  int64_t most_tokens = 0;          ///< of each
  std::vector<int32_t> end_tokens;  ///< after one of which a continuation is finished
  uint64_t seed = 0;
};

enum class Ending { end_token, most_tokens, context };

struct Continuation {
  std::vector<int32_t> tokens;  ///< behind the prompt, the end token too
  Ending ending = Ending::most_tokens;
};

/// What the model writes behind a prompt (at least one token), up to its context. The prompt is run once, then a token at a time with keys and values kept.
/// Memory: the model's weights in f32 (or as they are run), and for each sample 2 · kv_width floats for each position and block.
/// Throws Error(input) for a prompt that is longer than the context or has an id outside the vocabulary.
std::vector<Continuation> continue_prompt(const Model& model, const ForwardOptions& options, std::span<const int32_t> prompt, const ContinuationOptions& wanted, const RunContext& context);

}  // namespace llmc
