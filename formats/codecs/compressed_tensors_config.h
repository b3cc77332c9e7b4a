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

struct ModuleEncoding {
  Scheme scheme;
  const Codec* codec = nullptr;

  bool operator==(const ModuleEncoding&) const = default;
};
/// Reads one back: the scheme and codec of each of `modules` that a config group targets: by its name, else by a pattern, else by its
/// class. Throws Error(input) for what is not understood (output activations, other types, other formats, sparsity, transforms), for
/// patterns that are none, and where two groups target a module as closely and differ.
std::map<std::string, ModuleEncoding> read_quantization_config(const nlohmann::json& quantization_config, const std::vector<std::string>& modules, const std::string& where);
/// Which of `modules` a config group targets, and its name: by name, pattern, or the class that the module's name suggests.
std::map<std::string, std::string> find_targeted(const nlohmann::json& quantization_config, const std::vector<std::string>& modules, const std::string& where);

}  // namespace llmc
