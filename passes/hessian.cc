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

namespace llmc {
namespace {

using MatrixF64 = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;

double mean_diagonal(ConstMatrixView matrix) {
  double sum = 0;
  for (int64_t i = 0; i < matrix.rows; ++i) sum += matrix.row(i)[i];
  return sum / static_cast<double>(matrix.rows);
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
    Eigen::LLT<Eigen::Ref<MatrixF64>> cholesky(reversed);  // in place
    if (cholesky.info() == Eigen::Success) {
      MatrixF64 inverse = MatrixF64::Identity(n, n);
      parallel_pieces(n, 64, [&](int64_t first, int64_t last) { cholesky.matrixL().solveInPlace(inverse.middleCols(first, last - first)); });
      factor.upper = Matrix(n, n);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = i; j < n; ++j) factor.upper.row(i)[j] = static_cast<float>(inverse(n - 1 - i, n - 1 - j));
      return factor;
    }
    if (factor.damping >= most || !(damping > 0))
      throw Error(ErrorKind::input, fmt::format("{}: the second moment of the calibration inputs is not positive definite, not even with a damping of {}; use more or other calibration text, or a larger damping", where, factor.damping));
  }
}

Matrix correct_for_drift(ConstMatrixView weights, ConstMatrixView second_moment, ConstMatrixView cross_moment, double damping) {
  const int64_t n = second_moment.rows;
  assert(weights.cols == n && cross_moment.rows == n && cross_moment.cols == n);
  const double lambda = std::max(damping * mean_diagonal(second_moment), 1e-30);
  MatrixF64 h(n, n), c(n, n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const double diagonal = i == j ? lambda : 0;
      h(i, j) = second_moment.row(i)[j] + diagonal;
      c(i, j) = cross_moment.row(i)[j] + diagonal;
    }
  const Eigen::LLT<MatrixF64> cholesky(h);
  Matrix corrected(weights.rows, n);
  if (cholesky.info() != Eigen::Success) {  // nothing to be learned from such inputs
    for (int64_t r = 0; r < weights.rows; ++r) std::ranges::copy(weights.row_span(r), corrected.row(r));
    return corrected;
  }
  parallel_pieces(weights.rows, 64, [&](int64_t first, int64_t last) {
    MatrixF64 part(last - first, n);
    for (int64_t r = first; r < last; ++r)
      for (int64_t j = 0; j < n; ++j) part(r - first, j) = weights.row(r)[j];
    const MatrixF64 solved = cholesky.solve((part * c).transpose());
    for (int64_t r = first; r < last; ++r)
      for (int64_t j = 0; j < n; ++j) corrected.row(r)[j] = static_cast<float>(solved(j, r - first));
  });
  return corrected;
}

double output_error(ConstMatrixView a, ConstMatrixView b, ConstMatrixView second_moment) {
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const int64_t n = second_moment.rows;
  constexpr int64_t piece = 64;
  std::vector<double> sums(static_cast<size_t>((a.rows + piece - 1) / piece));
  const Eigen::Map<const RowMajor, 0, Eigen::OuterStride<>> h(second_moment.data, n, n, Eigen::OuterStride<>(second_moment.stride));
  parallel_pieces(a.rows, piece, [&](int64_t first, int64_t last) {
    RowMajor difference(last - first, n);
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < n; ++c) difference(r - first, c) = a.row(r)[c] - (b.rows > 0 ? b.row(r)[c] : 0);
    const RowMajor product = difference * h;
    double sum = 0;
    for (int64_t i = 0; i < product.rows(); ++i)
      for (int64_t c = 0; c < n; ++c) sum += double{difference(i, c)} * product(i, c);
    sums[static_cast<size_t>(first / piece)] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

double relative_output_error(ConstMatrixView weights, ConstMatrixView approximation, ConstMatrixView second_moment) {
  const double size = output_error(weights, {}, second_moment);
  return size > 0 ? output_error(weights, approximation, second_moment) / size : 0;
}

}  // namespace llmc
