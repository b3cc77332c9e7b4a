// Owns what GGUF files say about the scaling of rotary positions, both ways: keys, and llama3's tensor of factors.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "formats/gguf_metadata.h"
#include "model/model.h"

namespace llmc {

/// The tensor [rotated values / 2] that rotary frequencies are divided by.
inline constexpr const char* gguf_rope_factors_name = "rope_freqs.weight";

/// rope_scaling of the config.json that the keys after `prefix` ("llama.") and that tensor mean; null for none. `head_dim` is
/// the size of a head. Adds what it read to `used`, and to `problems` what has no such meaning.
nlohmann::json read_gguf_rope_scaling(const Checkpoint& checkpoint, const std::string& prefix, int64_t head_dim, std::vector<std::string>& used, Problems& problems);

/// Throws Error(usage) for a scaling that llama.cpp would not run.
void check_gguf_rope(const Model& model);
void add_gguf_rope_scaling(GgufMetadata& metadata, const std::string& prefix, const Rope& rope);
/// Values of that tensor; empty for a model that needs none.
std::vector<float> gguf_rope_factors(const Model& model);

}  // namespace llmc
