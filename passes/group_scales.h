// Owns the search of each group's scale for the least error of what the group adds to the layer's output: AWQ's clipping.
#pragma once

#include "core/tensor.h"
#include "formats/quantized_matrix.h"

namespace llmc {

/// Lin 2023 clips every group where the group's share of the output, by itself, has the least error. Here by the second moment
/// instead of samples: for every group of `rounded`, which is `weights` rounded to nearest, the scale from 0.7 to 1.3 times
/// its own (in steps of 0.025, then half a step to both sides of the best) that leaves the least Δ·H·Δᵀ, Δ = w − Q(w) over the group and H the
/// group's block of `second_moment` [in, in]. Zero points stay, codes follow. Never a larger error than before, up to
/// rounding in f32. Leaves schemes without groups alone, whose blocks of H would be whole, and codebooks.
void search_group_scales(QuantizedMatrix& rounded, ConstMatrixView weights, ConstMatrixView second_moment);

}  // namespace llmc
