// Eigen must not start OpenMP threads of its own: llmc cuts the work itself.
#include <Eigen/Core>
#include <algorithm>

#include "model/kernels.h"
#include "model/matmul.h"

namespace llmc {
namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Stride = Eigen::OuterStride<>;

Eigen::Map<const RowMajor, 0, Stride> map(ConstMatrixView view) { return {view.data, view.rows, view.cols, Stride(view.stride)}; }
Eigen::Map<RowMajor, 0, Stride> map(MatrixView view) { return {view.data, view.rows, view.cols, Stride(view.stride)}; }

/// Eigen takes other kernels for few rows (a vector product for one), so rows are padded with zeros to this multiple.
constexpr int64_t step = 16;

class EigenMatrix final : public PackedMatrix {
 public:
  EigenMatrix(ConstMatrixView weight, std::span<const float> bias, Precision precision)
      : weight_(map(weight)), bias_(bias.begin(), bias.end()), precision_(precision) {
    const std::span<float> values(weight_.data(), static_cast<size_t>(weight_.size()));
    if (precision == Precision::bf16) round_to_bf16(values, values);
  }

  void apply(ConstMatrixView x, MatrixView y) const override {
    const bool is_padded = x.rows % step != 0;
    if (!is_padded && precision_ == Precision::f32) return multiply(x, y);
    const int64_t rows = (x.rows + step - 1) / step * step;
    const auto cols = static_cast<size_t>(x.cols);
    const std::span<float> padded = thread_scratch<float, 0>(static_cast<size_t>(rows) * cols);
    for (int64_t r = 0; r < x.rows; ++r) {
      const std::span<float> row = padded.subspan(static_cast<size_t>(r) * cols, cols);
      if (precision_ == Precision::bf16) round_to_bf16(x.row_span(r), row);
      else std::ranges::copy(x.row_span(r), row.begin());
    }
    std::ranges::fill(padded.subspan(static_cast<size_t>(x.rows) * cols), 0.0f);
    const ConstMatrixView in{padded.data(), rows, x.cols, x.cols};
    if (!is_padded) return multiply(in, y);
    const MatrixView out{thread_scratch<float, 1>(static_cast<size_t>(rows * y.cols)).data(), rows, y.cols, y.cols};
    multiply(in, out);
    for (int64_t r = 0; r < y.rows; ++r) std::ranges::copy(out.row_span(r), y.row(r));
  }

 private:
  void multiply(ConstMatrixView x, MatrixView y) const {
    map(y).noalias() = map(x) * weight_.transpose();
    if (!bias_.empty())
      for (int64_t r = 0; r < y.rows; ++r) add_to(y.row_span(r), bias_);
  }

  RowMajor weight_;
  std::vector<float> bias_;
  Precision precision_;
};

}  // namespace

std::unique_ptr<PackedMatrix> pack_eigen(ConstMatrixView weight, std::span<const float> bias, Precision precision) {
  return std::make_unique<EigenMatrix>(weight, bias, precision);
}

void multiply_eigen(float alpha, ConstMatrixView a, ConstMatrixView b, Transpose transpose_b, MatrixView c) {
  if (transpose_b == Transpose::yes) map(c).noalias() = alpha * map(a) * map(b).transpose();
  else map(c).noalias() = alpha * map(a) * map(b);
}

void add_transposed_eigen(float alpha, ConstMatrixView a, ConstMatrixView b, MatrixView c) { map(c).noalias() += alpha * map(a).transpose() * map(b); }

bool add_transposed_bf16_eigen(std::span<const uint16_t>, std::span<const uint16_t>, int64_t, MatrixView) { return false; }

}  // namespace llmc
