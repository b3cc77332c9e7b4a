#include "passes/low_rank.h"

#include <algorithm>

#include "core/parallel.h"
#include "model/linear.h"

namespace llmc {
namespace {

constexpr int64_t factor_rows_at_once = 64;  ///< rows that one task works on

void take_step(Matrix& values, const Matrix& gradient, Matrix& mean, Matrix& square, const AdamStep& step) {
  for (size_t i = 0; i < values.values().size(); ++i) values.values()[i] -= step.move(gradient.values()[i], mean.values()[i], square.values()[i]);
}

}  // namespace

LowRankMatrix::LowRankMatrix(int64_t rows, int64_t cols, int64_t rank, Random random)
    : left_(rows, std::min({rank, rows, cols})), right_(left_.cols(), cols), left_mean_(rows, left_.cols()), left_square_(left_mean_), right_mean_(left_.cols(), cols), right_square_(right_mean_) {
  for (float& value : right_.values()) value = static_cast<float>(random.normal());
}

Matrix LowRankMatrix::values() const {
  Matrix product(left_.rows(), right_.cols());
  parallel_pieces(left_.rows(), factor_rows_at_once, [&](int64_t first, int64_t last) { multiply(default_backend(), 1, left_.view().row_range(first, last - first), right_.view(), Transpose::no, product.view().row_range(first, last - first)); });
  return product;
}

void LowRankMatrix::update(const Matrix& gradient, float rate) {
  ++steps_;
  Matrix of_left(left_.rows(), left_.cols()), of_right(right_.rows(), right_.cols());
  parallel_pieces(left_.rows(), factor_rows_at_once, [&](int64_t first, int64_t last) { multiply(default_backend(), 1, gradient.view().row_range(first, last - first), right_.view(), Transpose::yes, of_left.view().row_range(first, last - first)); });
  add_weight_gradient(default_backend(), Precision::f32, left_.view(), gradient.view(), of_right.view());
  take_step(left_, of_left, left_mean_, left_square_, AdamStep(rate, {}, steps_));
  take_step(right_, of_right, right_mean_, right_square_, AdamStep(rate / 10, {}, steps_));
}

}  // namespace llmc
