#include "passes/reconstruction.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "core/parallel.h"
#include "model/linear.h"

namespace llmc {
namespace {

/// Rows that are worked on together, one in each lane.
/// Share of the first residual (squared, preconditioned) below which a row is done: f32 products do not get much further.
constexpr double done = 1e-10;
constexpr int64_t most_rounds = 50;

/// Conjugate gradients (Hestenes & Stiefel 1952) for `lanes` rows at a time. Matrices are kept as [in, lanes].
class ConjugateGradients {
 public:
  static constexpr int64_t lanes = 64;

  ConjugateGradients(ConstMatrixView weights, const Mask& mask, ConstMatrixView start, ConstMatrixView h, float damping, int64_t first_row)
      : h_(h), damping_(damping), first_row_(first_row), rows_(std::min(lanes, weights.rows - first_row)), kept_(h.rows, lanes), values_(h.rows, lanes), residual_(h.rows, lanes), direction_(h.rows, lanes), product_(h.rows, lanes) {
    for (int64_t i = 0; i < h.rows; ++i)
      for (int64_t lane = 0; lane < rows_; ++lane) {
        const int64_t row = first_row + lane;
        kept_.row(i)[lane] = mask.row(row)[i] ? 0.0f : 1.0f;
        values_.row(i)[lane] = kept_.row(i)[lane] * start.row(row)[i];
        direction_.row(i)[lane] = weights.row(row)[i] - values_.row(i)[lane];  // the difference, for now
      }
    multiply_direction();
    std::ranges::copy(product_.values(), residual_.values().begin());
    std::ranges::fill(direction_.values(), 0.0f);
    for (int64_t i = 0; i < h.rows; ++i) {
      const float curvature = h.row(i)[i] + damping;
      inverse_.push_back(curvature > 0 ? 1 / curvature : 0);
    }
  }

  void run() {
    std::array<double, lanes> size = dot([&](int64_t i, int64_t lane) { return double{residual_.row(i)[lane]} * residual_.row(i)[lane] * inverse_[static_cast<size_t>(i)]; });
    const std::array<double, lanes> first = size;
    std::array<float, lanes> turn{}, step{};
    for (int64_t round = 0; round < most_rounds; ++round) {
      for (int64_t i = 0; i < h_.rows; ++i)
        for (int64_t lane = 0; lane < lanes; ++lane) direction_.row(i)[lane] = inverse_[static_cast<size_t>(i)] * residual_.row(i)[lane] + turn[static_cast<size_t>(lane)] * direction_.row(i)[lane];
      multiply_direction();
      const std::array<double, lanes> curvature = dot([&](int64_t i, int64_t lane) { return double{direction_.row(i)[lane]} * product_.row(i)[lane]; });
      bool any = false;
      for (size_t lane = 0; lane < lanes; ++lane) {
        const bool goes_on = curvature[lane] > 0 && size[lane] > done * first[lane];
        step[lane] = goes_on ? static_cast<float>(size[lane] / curvature[lane]) : 0;
        any = any || goes_on;
      }
      if (!any) return;
      for (int64_t i = 0; i < h_.rows; ++i)
        for (int64_t lane = 0; lane < lanes; ++lane) {
          values_.row(i)[lane] += step[static_cast<size_t>(lane)] * direction_.row(i)[lane];
          residual_.row(i)[lane] -= step[static_cast<size_t>(lane)] * product_.row(i)[lane];
        }
      const std::array<double, lanes> before = size;
      size = dot([&](int64_t i, int64_t lane) { return double{residual_.row(i)[lane]} * residual_.row(i)[lane] * inverse_[static_cast<size_t>(i)]; });
      for (size_t lane = 0; lane < lanes; ++lane) turn[lane] = before[lane] > 0 ? static_cast<float>(size[lane] / before[lane]) : 0;
    }
  }

  void write(Matrix& result) const {
    for (int64_t i = 0; i < h_.rows; ++i)
      for (int64_t lane = 0; lane < rows_; ++lane) result.row(first_row_ + lane)[i] = kept_.row(i)[lane] > 0 ? values_.row(i)[lane] : 0;
  }

 private:
  /// product = kept ⊙ (H + λ) direction
  void multiply_direction() {
    for (int64_t i = 0; i < h_.rows; ++i)
      for (int64_t lane = 0; lane < lanes; ++lane) product_.row(i)[lane] = damping_ * direction_.row(i)[lane];
    add_transposed_product(default_backend(), 1, h_, direction_.view(), product_.view());
    for (size_t k = 0; k < product_.values().size(); ++k) product_.values()[k] *= kept_.values()[k];
  }

  std::array<double, lanes> dot(auto&& term) const {
    std::array<double, lanes> sums{};
    for (int64_t i = 0; i < h_.rows; ++i)
      for (int64_t lane = 0; lane < lanes; ++lane) sums[static_cast<size_t>(lane)] += term(i, lane);
    return sums;
  }

  ConstMatrixView h_;
  float damping_;
  int64_t first_row_;
  int64_t rows_;
  Matrix kept_;  ///< 1 or 0
  Matrix values_, residual_, direction_, product_;
  std::vector<float> inverse_;  ///< of the diagonal
};

}  // namespace

Matrix reconstruct(ConstMatrixView weights, const Mask& mask, ConstMatrixView start, ConstMatrixView second_moment, double damping) {
  assert(mask.rows == weights.rows && mask.cols == weights.cols && second_moment.rows == weights.cols);
  double mean = 0;
  for (int64_t i = 0; i < second_moment.rows; ++i) mean += second_moment.row(i)[i];
  mean /= static_cast<double>(second_moment.rows);
  Matrix result(weights.rows, weights.cols);
  parallel_pieces(weights.rows, ConjugateGradients::lanes, [&](int64_t first, int64_t) {
    ConjugateGradients tile(weights, mask, start, second_moment, static_cast<float>(damping * mean), first);
    tile.run();
    tile.write(result);
  });
  return result;
}

}  // namespace llmc
