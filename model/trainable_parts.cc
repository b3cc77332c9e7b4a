#include "model/trainable_parts.h"

#include <algorithm>

#include "model/backward_kernels.h"
#include "model/kernels.h"

namespace llmc {
namespace {

Matrix transpose(ConstMatrixView x) {
  Matrix result(x.cols, x.rows);
  for_each_tile(x.rows, [&](int64_t first, int64_t rows) {
    constexpr int64_t step = 16;
    for (int64_t start = 0; start < x.cols; start += step)
      for (int64_t r = first; r < first + rows; ++r)
        for (int64_t c = start; c < std::min(start + step, x.cols); ++c) result.row(c)[r] = x.row(r)[c];
  });
  return result;
}

}  // namespace

void add_column_sums(ConstMatrixView x, Matrix& sums) {
  parallel_pieces(x.cols, trainable_tile, [&](int64_t first, int64_t last) {
    const auto part = sums.view().column_range(first, last - first).row_span(0);
    for (int64_t r = 0; r < x.rows; ++r) add_to(part, x.column_range(first, last - first).row_span(r));
  });
}

TrainableLinear::TrainableLinear(const Matrix& weight, const Matrix* bias, Precision precision, MatmulBackend backend)
    : forward(weight.view(), bias ? bias->values() : std::span<const float>(), precision, backend), backward(transpose(weight.view()).view(), {}, precision, backend) {}

void TrainableNorm::set(const BlockTensors& values, Role role) {
  if (const Matrix* matrix = values.find(role)) {
    weight = *matrix;
    if (offset != 0)
      for (float& value : weight.values()) value += static_cast<float>(offset);
  }
  if (const Matrix* matrix = values.find(role, Part::bias)) bias = *matrix;
}

void TrainableNorm::apply(ConstMatrixView x, MatrixView y) const {
  for (int64_t r = 0; r < x.rows; ++r) {
    if (!is_there()) std::ranges::copy(x.row_span(r), y.row(r));
    else if (kind == Norm::rms) rms_norm(x.row_span(r), weight.values(), epsilon, y.row_span(r));
    else layer_norm(x.row_span(r), weight.values(), bias.values(), epsilon, y.row_span(r));
  }
}

void TrainableNorm::apply_back(ConstMatrixView x, MatrixView d, std::span<float> d_weight, std::span<float> d_bias) const {
  for (int64_t r = 0; r < x.rows && is_there(); ++r) {
    if (kind == Norm::rms) rms_norm_backward(x.row_span(r), weight.values(), epsilon, d.row_span(r), d.row_span(r), d_weight);
    else layer_norm_backward(x.row_span(r), weight.values(), epsilon, d.row_span(r), d.row_span(r), d_weight, d_bias);
  }
}

void TrainableNorm::apply_to_heads(ConstMatrixView x, MatrixView y) const {
  const int64_t width = weight.cols();
  for (int64_t at = 0; at < x.cols; at += width) apply(x.column_range(at, width), y.column_range(at, width));
}

void TrainableNorm::apply_back_to_heads(ConstMatrixView x, MatrixView d, std::span<float> d_weight) const {
  const int64_t width = weight.cols();
  for (int64_t at = 0; at < x.cols; at += width) apply_back(x.column_range(at, width), d.column_range(at, width), d_weight, {});
}

NormGradients::NormGradients(BlockTensors& gradients, Role role, int64_t tiles, int64_t width)
    : weight_(gradients.find(role)), bias_(gradients.find(role, Part::bias)), weights_(weight_ ? tiles : 0, width), biases_(bias_ ? tiles : 0, width) {}

void NormGradients::finish() const {
  if (weight_) add_column_sums(weights_.view(), *weight_);
  if (bias_) add_column_sums(biases_.view(), *bias_);
}

}  // namespace llmc
