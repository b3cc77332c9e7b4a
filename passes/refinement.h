// Owns the refinement of a rounded matrix: scales and codes moved, in turns, to where the layer's output error is least.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "formats/quantized_matrix.h"
#include "passes/mask.h"

namespace llmc {

/// Lowers tr((W − Ŵ) H (W − Ŵ)ᵀ), H being `second_moment` [in, in], by `rounds` rounds of
///   - a least-squares fit of each span's scale to its codes, the others given (not for a scale that rows share);
///   - one pass of coordinate descent: each code moved to its best value, the others given (Behdin 2023, QuantEase).
/// What a mask says is gone keeps its code; nullptr: no mask. Neither step ever raises the error, up to rounding in f32. Rows do
/// not depend on each other.
void refine_rounding(QuantizedMatrix& rounded, ConstMatrixView weights, ConstMatrixView second_moment, int64_t rounds, const Mask* mask = nullptr);

}  // namespace llmc
