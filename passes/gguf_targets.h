// Owns which tensors of a model a step rounds to blocks of GGUF types, and to which.
#pragma once

#include <vector>

#include "formats/gguf_mix.h"
#include "model/model.h"
#include "passes/gguf_options.h"

namespace llmc {

/// A tensor that is to be rounded to blocks.
struct GgufTarget {
  const PlacedTensor* placed = nullptr;
  const GgufTypeInfo* type = nullptr;
  const GgufTypeInfo* instead_of = nullptr;  ///< what its rows forbid; nullptr: nothing
};

/// In model order; tensors that stay floats are not listed. `importance`: whether the rounding knows of inputs, which some mixes
/// ask. Throws Error(usage) with every problem.
std::vector<GgufTarget> find_gguf_targets(const Model& model, const GgufOptions& options, MixImportance importance);

}  // namespace llmc
