#include "passes/structures.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <numeric>

#include "core/parallel.h"
#include "model/linear.h"
#include "passes/hessian.h"

namespace llmc {
namespace {

using MatrixF64 = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;

Matrix take_columns(ConstMatrixView from, std::span<const int64_t> columns) {
  Matrix result(from.rows, static_cast<int64_t>(columns.size()));
  for (int64_t r = 0; r < from.rows; ++r)
    for (int64_t c = 0; c < result.cols(); ++c) result.row(r)[c] = from.row(r)[columns[static_cast<size_t>(c)]];
  return result;
}

std::vector<int64_t> others(std::span<const int64_t> kept, int64_t count) {
  std::vector<int64_t> rest;
  for (int64_t i = 0; i < count; ++i)
    if (!std::ranges::binary_search(kept, i)) rest.push_back(i);
  return rest;
}

/// result += a · b over all rows of a, on all threads.
void add_product(ConstMatrixView a, ConstMatrixView b, Matrix& result) {
  if (a.cols == 0) return;
  parallel_pieces(a.rows, 128, [&](int64_t first, int64_t last) {
    Matrix product(last - first, b.cols);
    multiply(default_backend(), 1, a.row_range(first, last - first), b, Transpose::no, product.view());
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < b.cols; ++c) result.row(r)[c] += product.row(r - first)[c];
  });
}

/// a − u vᵀ
Matrix subtract_outer(const Matrix& a, std::span<const float> u, std::span<const float> v) {
  Matrix result = a;
  for (int64_t r = 0; r < a.rows(); ++r)
    for (int64_t c = 0; c < a.cols(); ++c) result.row(r)[c] -= u[static_cast<size_t>(r)] * v[static_cast<size_t>(c)];
  return result;
}

/// The weight and the inverse of its second moment, as structures go.
class Elimination {
 public:
  Elimination(ConstMatrixView weights, const HessianFactor& factor, int64_t width) : width_(width), weights_(weights.rows, weights.cols), inverse_(weights.cols, weights.cols), left_(static_cast<size_t>(weights.cols / width)) {
    const int64_t n = weights.cols;
    for (int64_t r = 0; r < weights.rows; ++r)
      for (int64_t c = 0; c < n; ++c) weights_(r, c) = weights.row(r)[c];
    MatrixF64 upper(n, n);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < n; ++c) upper(r, c) = factor.upper.row(r)[c];
    parallel_pieces(n, 64, [&](int64_t first, int64_t last) { inverse_.middleCols(first, last - first).noalias() = upper.topRows(last).transpose() * upper.block(0, first, last, last - first); });
    std::iota(left_.begin(), left_.end(), 0);
  }

  const std::vector<int64_t>& left() const { return left_; }

  /// Removes the `count` structures that cost least.
  void remove(int64_t count) {
    std::vector<double> losses(left_.size());
    parallel_pieces(static_cast<int64_t>(left_.size()), 16, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) losses[static_cast<size_t>(i)] = loss_of(left_[static_cast<size_t>(i)]);
    });
    std::vector<size_t> order(left_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, {}, [&](size_t i) { return losses[i]; });
    std::vector<int64_t> gone;
    for (int64_t i = 0; i < count; ++i) gone.push_back(left_[order[static_cast<size_t>(i)]]);
    std::ranges::sort(gone);
    eliminate(columns_of(gone, width_));
    std::erase_if(left_, [&](int64_t s) { return std::ranges::binary_search(gone, s); });
  }

 private:
  double loss_of(int64_t structure) const {
    const int64_t first = structure * width_;
    if (width_ == 1) return weights_.col(first).squaredNorm() / inverse_(first, first);
    const Eigen::LLT<MatrixF64> corner(inverse_.block(first, first, width_, width_));
    return corner.matrixL().solve(MatrixF64(weights_.middleCols(first, width_).transpose())).squaredNorm();
  }

  /// W −= W_B [H⁻¹]_BB⁻¹ [H⁻¹]_B, and H⁻¹ likewise.
  void eliminate(const std::vector<int64_t>& columns) {
    const auto count = static_cast<int64_t>(columns.size()), n = inverse_.cols();
    MatrixF64 corner(count, count), rows(count, n);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = columns[static_cast<size_t>(i)];
      rows.row(i) = inverse_.row(at);
      for (int64_t j = 0; j < count; ++j) corner(i, j) = inverse_(at, columns[static_cast<size_t>(j)]);
    }
    MatrixF64 weights(weights_.rows(), count);
    for (int64_t i = 0; i < count; ++i) weights.col(i) = weights_.col(columns[static_cast<size_t>(i)]);
    const MatrixF64 solved = Eigen::LLT<MatrixF64>(corner).solve(rows);
    const MatrixF64 sides = rows.transpose();
    parallel_pieces(n, 64, [&](int64_t first, int64_t last) {
      weights_.middleCols(first, last - first).noalias() -= weights * solved.middleCols(first, last - first);
      inverse_.middleCols(first, last - first).noalias() -= sides * solved.middleCols(first, last - first);
    });
  }

  int64_t width_;
  MatrixF64 weights_;
  MatrixF64 inverse_;
  std::vector<int64_t> left_;
};

}  // namespace

std::vector<int64_t> keep_highest(std::span<const double> scores, int64_t kept) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](int64_t i) { return scores[static_cast<size_t>(i)]; });
  std::vector<int64_t> result(order.end() - kept, order.end());
  std::ranges::sort(result);
  return result;
}

std::vector<int64_t> columns_of(std::span<const int64_t> structures, int64_t width) {
  std::vector<int64_t> columns;
  for (int64_t s : structures)
    for (int64_t c = 0; c < width; ++c) columns.push_back(s * width + c);
  return columns;
}

std::vector<double> score_by_activation(ConstMatrixView weights, std::span<const float> mean_square, int64_t width) {
  std::vector<double> scores(static_cast<size_t>(weights.cols / width));
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t c = 0; c < weights.cols; ++c) scores[static_cast<size_t>(c / width)] += double{weights.row(r)[c]} * weights.row(r)[c] * mean_square[static_cast<size_t>(c)];
  return scores;
}

std::vector<double> slope_of_structures(ConstMatrixView weights, ConstMatrixView gradient, int64_t width) {
  std::vector<double> slopes(static_cast<size_t>(weights.cols / width));
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t c = 0; c < weights.cols; ++c) slopes[static_cast<size_t>(c / width)] += double{weights.row(r)[c]} * gradient.row(r)[c];
  return slopes;
}

std::vector<int64_t> keep_by_loss(ConstMatrixView weights, ConstMatrixView second_moment, int64_t width, int64_t kept, double damping, const std::string& where) {
  Elimination elimination(weights, factor_hessian(second_moment, damping, RoundingOrder::natural, where), width);
  int64_t to_go = weights.cols / width - kept;
  const int64_t at_once = std::max<int64_t>(1, to_go / 256);
  for (; to_go > 0; to_go -= std::min(to_go, at_once)) elimination.remove(std::min(to_go, at_once));
  return elimination.left();
}

Matrix moment_for(const InputStatistics& statistics, Offset offset) { return offset == Offset::none ? statistics.second_moment : subtract_outer(statistics.second_moment, statistics.mean, statistics.mean); }

FittedLayer fit_kept(ConstMatrixView weights, const InputStatistics& statistics, std::span<const int64_t> kept, Offset offset, double damping, const std::string& where) {
  const int64_t n = weights.cols;
  assert(statistics.in() == n && std::ranges::is_sorted(kept));
  const bool has_bias = offset == Offset::bias;
  const auto centered = [&](const Matrix& moment, const std::vector<float>& mean) { return has_bias ? subtract_outer(moment, mean, statistics.mean) : moment; };
  const Matrix h_kept = take_columns(moment_for(statistics, offset).view(), kept);  // [n, kept]
  const std::vector<int64_t> gone = others(kept, n);

  // What is missing in the output, against the inputs that stay: W_gone H_gone,kept + W D_kept + R_kept.
  Matrix missing(weights.rows, static_cast<int64_t>(kept.size()));
  Matrix h_gone(static_cast<int64_t>(gone.size()), missing.cols()), h(missing.cols(), missing.cols());
  for (size_t i = 0; i < gone.size(); ++i) std::ranges::copy(h_kept.view().row_span(gone[i]), h_gone.row(static_cast<int64_t>(i)));
  for (size_t i = 0; i < kept.size(); ++i) std::ranges::copy(h_kept.view().row_span(kept[i]), h.row(static_cast<int64_t>(i)));
  add_product(take_columns(weights, gone).view(), h_gone.view(), missing);
  if (!statistics.drift_moment.empty()) add_product(weights, take_columns(centered(statistics.drift_moment, statistics.drift_mean).view(), kept).view(), missing);
  if (!statistics.residual_moment.empty()) {
    const Matrix residual = take_columns(centered(statistics.residual_moment, statistics.residual_mean).view(), kept);
    for (size_t i = 0; i < residual.values().size(); ++i) missing.values()[i] += residual.values()[i];
  }
  const Matrix fitted = add_fitted(take_columns(weights, kept).view(), missing.view(), factor_hessian(h.view(), damping, RoundingOrder::natural, where));

  FittedLayer layer{.weights = Matrix(weights.rows, n), .bias_change = {}};
  for (int64_t r = 0; r < weights.rows; ++r)
    for (size_t i = 0; i < kept.size(); ++i) layer.weights.row(r)[kept[i]] = fitted.row(r)[static_cast<int64_t>(i)];
  if (!has_bias) return layer;
  for (int64_t r = 0; r < weights.rows; ++r) {
    double change = statistics.residual_mean.empty() ? 0 : statistics.residual_mean[static_cast<size_t>(r)];
    for (int64_t c = 0; c < n; ++c) {
      const auto at = static_cast<size_t>(c);
      const double drift = statistics.drift_mean.empty() ? 0 : statistics.drift_mean[at];
      change += double{weights.row(r)[c]} * (statistics.mean[at] + drift) - double{layer.weights.row(r)[c]} * statistics.mean[at];
    }
    layer.bias_change.push_back(static_cast<float>(change));
  }
  return layer;
}

}  // namespace llmc
