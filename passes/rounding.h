// Owns round-to-nearest: from a float matrix to codes on the grid of a scheme.
#pragma once

#include <span>
#include <string>

#include "core/tensor.h"
#include "formats/quantized_matrix.h"
#include "formats/stored_tensor.h"
#include "passes/grid.h"

namespace llmc {

/// Rounds `weights` [rows, cols] to the grid of each span. Scales are rounded to `scale_dtype` first and codes are chosen on
/// the grid that results, so nothing is lost in storing it. `importance` as in choose_grid.
/// Throws Error(usage) when the group does not divide the rows, Error(input) naming `where` when a scale is not finite or
/// is too small for its dtype.
QuantizedMatrix round_to_nearest(ConstMatrixView weights, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where, std::span<const float> importance = {});

/// The same of a stored tensor; where each row has grids of its own, its floats are read a row at a time.
QuantizedMatrix round_to_nearest(const StoredTensor& tensor, const Scheme& scheme, DType scale_dtype, const RangeOptions& range);

}  // namespace llmc
