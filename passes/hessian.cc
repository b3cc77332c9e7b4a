#include "passes/hessian.h"

#include <fmt/format.h>

#include <Eigen/Cholesky>
#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "model/linear.h"

namespace llmc {
namespace {

using MatrixF64 = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;

double mean_diagonal(ConstMatrixView matrix) {
  double sum = 0;
  for (int64_t i = 0; i < matrix.rows; ++i) sum += matrix.row(i)[i];
  return sum / static_cast<double>(matrix.rows);
}

/// The lower Cholesky factor of a matrix over its lower triangle, tile by tile on all threads; false when there is none.
bool factor_in_place(MatrixF64& matrix) {
  constexpr int64_t panel = 192, tile = 128;
  const int64_t n = matrix.rows();
  for (int64_t begin = 0; begin < n; begin += panel) {
    const int64_t width = std::min(panel, n - begin), next = begin + width, rest = n - next;
    Eigen::Ref<MatrixF64> corner = matrix.block(begin, begin, width, width);
    if (Eigen::LLT<Eigen::Ref<MatrixF64>>(corner).info() != Eigen::Success) return false;
    parallel_pieces(rest, tile, [&](int64_t first, int64_t last) {
      auto rows = matrix.block(next + first, begin, last - first, width);
      corner.triangularView<Eigen::Lower>().transpose().solveInPlace<Eigen::OnTheRight>(rows);
    });
    parallel_pieces(rest, tile, [&](int64_t first, int64_t last) {
      matrix.block(next + first, next + first, rest - first, last - first).noalias() -= matrix.block(next + first, begin, rest - first, width) * matrix.block(next + first, begin, last - first, width).transpose();
    });
  }
  return true;
}

}  // namespace

std::string_view to_string(RoundingOrder order) {
  constexpr std::array names = {"natural", "activation"};
  return names[static_cast<size_t>(order)];
}

HessianFactor factor_hessian(ConstMatrixView second_moment, double damping, RoundingOrder order, const std::string& where) {
  const int64_t n = second_moment.rows;
  HessianFactor factor{.order = std::vector<int64_t>(static_cast<size_t>(n))};
  std::iota(factor.order.begin(), factor.order.end(), 0);
  const auto size_of = [&](int64_t channel) { return second_moment.row(channel)[channel]; };
  if (order == RoundingOrder::activation) std::ranges::stable_sort(factor.order, std::ranges::greater(), size_of);
  factor.dead = std::ranges::count_if(factor.order, [&](int64_t channel) { return !(size_of(channel) > 0); });

  constexpr double most = 1;
  const double mean = mean_diagonal(second_moment);
  for (factor.damping = damping;; factor.damping *= 10) {
    // Reversed, so that the lower factor of the reversed matrix is an upper one of the matrix: H = R Rᵀ, H⁻¹ = R⁻ᵀ R⁻¹.
    MatrixF64 reversed(n, n);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) reversed(n - 1 - i, n - 1 - j) = second_moment.row(factor.order[static_cast<size_t>(i)])[factor.order[static_cast<size_t>(j)]];
    for (int64_t i = 0; i < n; ++i) {
      double& diagonal = reversed(n - 1 - i, n - 1 - i);
      diagonal = diagonal > 0 ? diagonal + factor.damping * mean : 1;
    }
    if (factor_in_place(reversed)) {
      factor.upper = Matrix(n, n);
      parallel_pieces(n, 64, [&](int64_t first, int64_t last) {
        const int64_t rest = n - first;  // a column of the inverse is zero above the diagonal
        MatrixF64 columns = MatrixF64::Identity(rest, last - first);
        reversed.bottomRightCorner(rest, rest).triangularView<Eigen::Lower>().solveInPlace(columns);
        for (int64_t j = first; j < last; ++j)
          for (int64_t i = j; i < n; ++i) factor.upper.row(n - 1 - i)[n - 1 - j] = static_cast<float>(columns(i - first, j - first));
      });
      return factor;
    }
    if (factor.damping >= most || !(damping > 0))
      throw Error(ErrorKind::input, fmt::format("{}: the second moment of the calibration inputs is not positive definite, not even with a damping of {}; use more or other calibration text, or a larger damping", where, factor.damping));
  }
}

namespace {

/// target := base + moment (H + λ)⁻¹, for some rows.
void add_solution(ConstMatrixView base, ConstMatrixView moment, const HessianFactor& factor, MatrixView target) {
  const int64_t n = base.cols;
  const auto channel = [&](int64_t i) { return factor.order[static_cast<size_t>(i)]; };
  Matrix pulled(base.rows, n), halfway(base.rows, n);
  for (int64_t r = 0; r < base.rows; ++r)
    for (int64_t j = 0; j < n; ++j) pulled.row(r)[j] = moment.row(r)[channel(j)];
  multiply(default_backend(), 1, pulled.view(), factor.upper.view(), Transpose::yes, halfway.view());
  multiply(default_backend(), 1, halfway.view(), factor.upper.view(), Transpose::no, pulled.view());
  for (int64_t r = 0; r < base.rows; ++r)
    for (int64_t j = 0; j < n; ++j) target.row(r)[channel(j)] = base.row(r)[channel(j)] + pulled.row(r)[j];
}

}  // namespace

Matrix correct_for_drift(ConstMatrixView weights, ConstMatrixView drift_moment, const HessianFactor& factor) {
  const int64_t n = weights.cols;
  assert(drift_moment.rows == n && drift_moment.cols == n && factor.upper.rows() == n);
  Matrix corrected(weights.rows, n);
  parallel_pieces(weights.rows, 128, [&](int64_t first, int64_t last) {
    Matrix moment(last - first, n);
    multiply(default_backend(), 1, weights.row_range(first, last - first), drift_moment, Transpose::no, moment.view());
    add_solution(weights.row_range(first, last - first), moment.view(), factor, corrected.view().row_range(first, last - first));
  });
  return corrected;
}

Matrix add_fitted(ConstMatrixView weights, ConstMatrixView moment, const HessianFactor& factor) {
  assert(moment.rows == weights.rows && moment.cols == weights.cols && factor.upper.rows() == weights.cols);
  Matrix fitted(weights.rows, weights.cols);
  parallel_pieces(weights.rows, 128, [&](int64_t first, int64_t last) { add_solution(weights.row_range(first, last - first), moment.row_range(first, last - first), factor, fitted.view().row_range(first, last - first)); });
  return fitted;
}

double output_error(ConstMatrixView a, ConstMatrixView b, ConstMatrixView second_moment) {
  const int64_t n = second_moment.rows;
  constexpr int64_t piece = 64;
  std::vector<double> sums(static_cast<size_t>((a.rows + piece - 1) / piece));
  parallel_pieces(a.rows, piece, [&](int64_t first, int64_t last) {
    Matrix difference(last - first, n), product(last - first, n);
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < n; ++c) difference.row(r - first)[c] = a.row(r)[c] - (b.rows > 0 ? b.row(r)[c] : 0);
    multiply(default_backend(), 1, difference.view(), second_moment, Transpose::no, product.view());
    double sum = 0;
    for (size_t i = 0; i < product.values().size(); ++i) sum += double{difference.values()[i]} * product.values()[i];
    sums[static_cast<size_t>(first / piece)] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

double relative_output_error(ConstMatrixView weights, ConstMatrixView approximation, ConstMatrixView second_moment) {
  const double size = output_error(weights, {}, second_moment);
  return size > 0 ? output_error(weights, approximation, second_moment) / size : 0;
}

}  // namespace llmc
