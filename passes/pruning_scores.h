// Owns scores of weights: pure functions from a matrix and its input's statistics to what each weight is worth.
#pragma once

#include <span>

#include "core/tensor.h"

namespace llmc {

/// |w| · ‖x‖₂ with `mean_square` [in] of the input (Sun 2023, eq. 1; the root of a mean instead of a sum ranks the same).
Matrix wanda_scores(ConstMatrixView weights, std::span<const float> mean_square);

}  // namespace llmc
