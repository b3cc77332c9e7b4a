// Owns what error compensation needs of a second moment: a damped Cholesky factor of its inverse, and the error it measures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calib/input_statistics.h"
#include "core/tensor.h"

namespace llmc {

/// In which order a row's weights are rounded.
enum class RoundingOrder {
  natural,     ///< as they lie
  activation,  ///< the largest mean square of the input first (GPTQ's act-order)
};
std::string_view to_string(RoundingOrder order);

/// U of H⁻¹ = Uᵀ U, upper triangular, of H = second moment + damping · mean of its diagonal · I in the order of rounding.
/// Channels that calibration never saw ("dead") get 1 on the diagonal: they are rounded on their own.
struct HessianFactor {
  std::vector<int64_t> order;  ///< order[i]: the channel that is rounded as the i-th
  Matrix upper;                ///< [in, in] in that order
  double damping = 0;          ///< what was needed: more than asked for when the factorization failed at first
  int64_t dead = 0;
};
/// In f64 (Frantar 2022, section 3.3; one Cholesky factorization of the reversed matrix and one triangular inverse give U).
/// When the matrix is not positive definite the damping grows tenfold, at most to 1; then Error(input) naming `where`.
HessianFactor factor_hessian(ConstMatrixView second_moment, double damping, RoundingOrder order, const std::string& where);

/// What `weights` [rows, in] should be when the layer's inputs are not those of the float model: the minimum over V of
/// E‖W x̃ − V x‖² + λ ‖V − W‖², that is W + W D (H + λ)⁻¹ with D = E[(x̃ − x) xᵀ], the drift moment (Li 2025, GPTAQ, asymmetric
/// calibration). `factor` is that of H, and has λ in it.
Matrix correct_for_drift(ConstMatrixView weights, ConstMatrixView drift_moment, const HessianFactor& factor);

/// W + M (H + λ)⁻¹: the minimum over V of E‖e − (V − W) x‖² + λ ‖V − W‖², M = E[e xᵀ] [rows, in] being the moment of what is
/// missing in the layer's output. `factor` is that of H, and has λ in it.
Matrix add_fitted(ConstMatrixView weights, ConstMatrixView moment, const HessianFactor& factor);

/// E‖(A − B) x‖² summed over rows: tr((A − B) H (A − B)ᵀ), and tr(A H Aᵀ) with an empty B.
double output_error(ConstMatrixView a, ConstMatrixView b, ConstMatrixView second_moment);
/// E‖(W − Ŵ)x‖² / E‖Wx‖²; 0 when the latter is.
double relative_output_error(ConstMatrixView weights, ConstMatrixView approximation, ConstMatrixView second_moment);

}  // namespace llmc
