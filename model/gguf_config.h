// Owns what the keys of a GGUF file mean for a model's config, both ways: data by field of the config.
#pragma once

#include <nlohmann/json.hpp>

#include "formats/checkpoint.h"
#include "formats/gguf_metadata.h"
#include "model/model.h"

namespace llmc {

/// What the keys and the presence of tensors say.
struct GgufConfig {
  nlohmann::json config;  ///< a config.json, with the keys that are not understood under their own names
  ModelConfig facts;      ///< of it hidden, layers, heads, kv_heads, head_dim, fused_order and the flags
};

/// Throws Error(input) that lists keys that are missing or contradict each other.
GgufConfig read_gguf_config(const Checkpoint& checkpoint, const Architecture& architecture);

/// The keys that describe the model's maths, those of convert_hf_to_gguf.py.
void add_gguf_config(GgufMetadata& metadata, const Model& model);

/// What scores are divided by the root of in llama.cpp, where the config can say it.
double gguf_score_divisor(const GgufArchitecture& gguf, int64_t layers, int64_t heads, int64_t hidden, int64_t head_dim);

}  // namespace llmc
