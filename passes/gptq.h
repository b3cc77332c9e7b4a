// Owns GPTQ: rounding a matrix column by column while the columns to come make up for the error (Frantar 2022).
#pragma once

#include <string>

#include "core/tensor.h"
#include "formats/quantized_matrix.h"
#include "passes/grid.h"
#include "passes/hessian.h"
#include "passes/mask.h"

namespace llmc {

/// Rounds `weights` [rows, in] on the grids of the scheme. Grids are chosen from the weights as given (GPTQ's "static
/// groups"), so that they fit any order of rounding. The errors of one column go to the later ones by the rows of
/// `factor.upper` (Frantar 2022, eq. 2 and 3). A row's result does not depend on the other rows. What a mask says is gone
/// gets the code that means 0, which the grid then must have (ZeroLevel::kept), and is made up for too; nullptr: no mask.
/// Throws as round_to_nearest does.
QuantizedMatrix quantize_gptq(ConstMatrixView weights, const HessianFactor& factor, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where, const Mask* mask = nullptr);

}  // namespace llmc
