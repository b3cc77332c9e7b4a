// Owns the reconstruction of pruned weights: what is left of each row, moved to where the layer's output error is least.
#pragma once

#include "core/tensor.h"
#include "passes/mask.h"

namespace llmc {

/// Minimizes tr((V − W) (H + λ) (V − W)ᵀ) over V that is 0 where the mask says so, H being `second_moment` [in, in] and λ =
/// damping · mean of its diagonal: the least squares of each row's survivors. By at most 50 rounds of preconditioned conjugate
/// gradients from `start`, each of which lowers it. Rows do not depend on each other.
Matrix reconstruct(ConstMatrixView weights, const Mask& mask, ConstMatrixView start, ConstMatrixView second_moment, double damping);

}  // namespace llmc
