// Owns scores of weights: pure functions from a matrix and its input's statistics to what each weight is worth.
#pragma once

#include <span>

#include "core/tensor.h"

namespace llmc {

/// |w| · ‖x‖₂ with `mean_square` [in] of the input (Sun 2023, eq. 1; the root of a mean instead of a sum ranks the same);
/// |w| where no input was ever other than zero, as of an expert that no calibration token reached.
Matrix wanda_scores(ConstMatrixView weights, std::span<const float> mean_square);

/// |w| · √F with F [rows, cols] the mean square of the loss's gradients: to second order, w² F / 2 is what the loss grows by without
/// the weight, where gradients stand for curvature (LeCun 1989; the empirical Fisher information).
Matrix fisher_scores(ConstMatrixView weights, ConstMatrixView fisher);

}  // namespace llmc
