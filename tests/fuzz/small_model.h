// Owns the small model, the samples and the signature that fuzzers of kept states and their seeds share.
#pragma once

#include <nlohmann/json.hpp>

#include "calib/sweep.h"
#include "model/random_model.h"
#include "tests/fuzz/scratch.h"

namespace llmc::fuzz {

constexpr int64_t small_width = 8;

inline Model make_small_model(int64_t vocabulary) {
  const nlohmann::json config = {{"model_type", "llama"}, {"hidden_size", small_width}, {"intermediate_size", small_width}, {"num_hidden_layers", 1}, {"num_attention_heads", 1}, {"num_key_value_heads", 1}, {"vocab_size", vocabulary}, {"max_position_embeddings", 16}, {"rms_norm_eps", 1e-5}, {"rope_theta", 10000.0}, {"hidden_act", "silu"}, {"tie_word_embeddings", true}};
  write("config.json", config.dump());
  return make_random_model(scratch() / "config.json", 1, {});
}

/// What a kept state is of.
inline const Sequences& small_samples() {
  static const Sequences samples = {{1, 2, 3}, {4, 5}};
  return samples;
}
inline nlohmann::json small_signature() { return {{"seed", 1}}; }

}  // namespace llmc::fuzz
