// Owns SparseGPT: a weight's columns become final one after another, the least important weights as 0, while the columns to
// come make up for it (Frantar & Alistarh 2023).
#pragma once

#include <span>
#include <string>

#include "core/tensor.h"
#include "passes/grid.h"
#include "passes/hessian.h"
#include "passes/mask.h"

namespace llmc {

/// What share of a matrix goes, under which pattern, and what is ranked together (tensor or row).
struct SparsityTarget {
  SparsityPattern pattern;
  RankScope scope = RankScope::tensor;
  double sparsity = 0;
};

/// What becomes of a weight.
struct PrunedMatrix {
  Matrix values;  ///< +0 where the mask says so
  Mask mask;
};

/// `factor` in natural order. The mask is chosen for 128 columns at a time (for N:M as each group is reached) from
/// w² / [H⁻¹]² of the weights as they are then; inputs of mean square 0 go first. The share over all columns up to each block is
/// the target's, to the nearest unit.
PrunedMatrix prune_sparsegpt(ConstMatrixView weights, const HessianFactor& factor, std::span<const float> mean_square, const SparsityTarget& target);

struct SparseRounding {
  QuantizedMatrix rounded;
  Mask mask;
};
/// The same in one pass with rounding: what stays goes to the scheme's grid, and both errors are made up for (section 3.5).
SparseRounding quantize_sparsegpt(ConstMatrixView weights, const HessianFactor& factor, std::span<const float> mean_square, const SparsityTarget& target, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where);

}  // namespace llmc
