// Owns the description of compressed-tensors codes in config.json ("quantization_config").
// Layout: https://github.com/vllm-project/compressed-tensors, release 0.19.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "formats/codec.h"

namespace llmc {

enum class ModuleKind { linear, embedding };

/// A module and what its weight means.
struct ModuleScheme {
  std::string module;  ///< tensor name without ".weight"
  ModuleKind kind = ModuleKind::linear;
  Scheme scheme;
};

/// The `quantization_config` object for config.json. One scheme for linear modules only is said as targets ["Linear"]
/// with the `ignored` modules beside it; anything else names every module, since readers order patterns by spelling.
nlohmann::json make_quantization_config(const std::vector<ModuleScheme>& quantized, const std::vector<std::string>& ignored);

/// Reads one back: the scheme and codec of each of `modules` that a config group targets. Throws Error(input) for what
/// is not understood (output activations, other types, other formats).
struct ModuleEncoding {
  Scheme scheme;
  const Codec* codec = nullptr;
};
std::map<std::string, ModuleEncoding> read_quantization_config(const nlohmann::json& quantization_config, const std::vector<std::string>& modules, const std::string& where);

}  // namespace llmc
