// Owns the flags that say how a GGUF file stores its tensors; their names are llama-quantize's.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "passes/gguf_options.h"

namespace llmc {

struct GgufFlags {
  std::string type;  ///< empty: not given
  bool pure = false, leave_output_tensor = false, allow_fallback = false;
  std::string output_tensor_type, token_embedding_type;
  std::string rounding, imatrix;  ///< empty: not given
};

/// --type, --pure and the others, for a command that has --tensor-type, --output-tensor-type and --token-embedding-type.
void add_gguf_mix_flags(CLI::App& app, GgufFlags& flags);
/// Throws Error(usage) for a type that is not known. `tensor_types` are REGEX=TYPE.
GgufOptions read_gguf_flags(const GgufFlags& flags, const std::vector<std::string>& tensor_types);

}  // namespace llmc
