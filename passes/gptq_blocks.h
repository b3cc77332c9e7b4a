// Owns GPTQ over the block types of GGUF files: rounding column by column while the columns to come make up for the error.
#pragma once

#include <span>
#include <string>

#include "core/tensor.h"
#include "formats/gguf/block_matrix.h"
#include "passes/hessian.h"

namespace llmc {

/// Rounds `weights` [rows, in]. With a factor in the natural order a block's scales are searched (passes/block_search.h) when the
/// rounding gets to it, for the weights as they have become; in any other order all are searched first, for the weights as given.
/// The search weighs errors by `importance` [in]; empty: all alike. The errors of one column go to the later ones by the rows of
/// `factor.upper` (Frantar 2022, eq. 2 and 3). Rows do not depend on each other. Throws as encode_gguf does.
BlockMatrix quantize_gptq_blocks(const GgufTypeInfo& type, ConstMatrixView weights, const HessianFactor& factor, std::span<const float> importance, const std::string& where);

/// Every block searched on its own: what encode_gguf packs.
BlockMatrix search_matrix(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where);

}  // namespace llmc
