// Owns the data-free search of a grid's scale and zero point by half-quadratic splitting.
#pragma once

#include <span>

#include "core/tensor.h"
#include "passes/grid.h"

namespace llmc {

/// After Badri & Shaji 2023 (HQQ), by turns: codes := nearest; e := shrink(x − x̂), p = 0.7, which sets the few large errors (clipped
/// weights) aside; scale and zero point := least squares of x − e. Unlike theirs, errors are measured in steps of the grid,
/// the scale moves too, every grid that counts has its scale as it is `stored` and an integer zero point, and the best of the
/// grids met (which may be `start`) is the one with the least grid_error. `importance` [cols] or empty.
Grid search_half_quadratic(ConstMatrixView weights, std::span<const float> importance, const Grid& start, const Scheme& scheme, const ScaleRounding& stored);

/// Σ importance·|x − x̂|^2.5: between the squares, which clip too much, and the maximum. Frantar's GPTQ code has 2.4; 2.5 is a root.
double grid_error(ConstMatrixView weights, std::span<const float> importance, const Grid& grid);

}  // namespace llmc
