// Owns the refinement of a weight in GGUF blocks: scales, minima and codes moved, in turns, to where the layer's output error is least.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "formats/gguf/block_matrix.h"

namespace llmc {

/// Lowers tr((W − Ŵ) H (W − Ŵ)ᵀ), H being `second_moment` [in, in], by `rounds` rounds over the columns, 256 at a time:
///   - each span's scale and minimum, then each block's d and dmin, moved to the least-squares value, all else given, as far as
///     files can hold it (integers move in whole steps; powers of two stay);
///   - each code moved to its best value, the others given (Behdin 2023, QuantEase).
/// No step raises the error, up to rounding in f32. Rows do not depend on each other.
void refine_blocks(BlockMatrix& rounded, ConstMatrixView weights, ConstMatrixView second_moment, int64_t rounds);

}  // namespace llmc
