// Owns how a recipe says that a model is stored as GGUF.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/gguf_mix.h"

namespace llmc {

/// The names of flags and fields are llama-quantize's.
struct GgufOptions {
  std::string type = "F16";  ///< of a mix (formats/gguf_mix.h), or of a float type for all matrices
  MixRules rules = MixRules::used;
  OutputTensor output_tensor = OutputTensor::quantized;
  std::string output_tensor_type;     ///< none: by the mix
  std::string token_embedding_type;   ///< none: by the mix
  std::vector<std::pair<std::string, std::string>> tensor_types;  ///< a pattern of GGUF names and a type: the first that matches
  TypeFallback fallback = TypeFallback::refused;
};

/// Throws Error(usage) for a type or pattern that is not known, with every name in the spelling of the tables afterwards.
void check_gguf_options(GgufOptions& options, const std::string& where);
MixOverrides make_overrides(const GgufOptions& options);
/// True when every tensor is stored in floats.
bool stores_floats(const GgufOptions& options);

/// Fields: type, pure, leave_output_tensor, output_tensor_type, token_embedding_type, tensor_types (a list of {pattern, type}),
/// allow_fallback. Throws Error(input) for an unknown one, and as check_gguf_options does.
GgufOptions read_gguf_options(const nlohmann::json& object, const std::string& where);
nlohmann::json to_json(const GgufOptions& options);

}  // namespace llmc
