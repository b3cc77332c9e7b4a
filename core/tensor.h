// Owns the shapes of data in memory: borrowed tensors of any type, and owned or borrowed f32 matrices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace llmc {

using Shape = std::vector<int64_t>;

/// "[3, 4]"
std::string to_string(const Shape& shape);
/// Product of the dimensions; throws Error(input) naming `where` when one is negative or the product overflows.
int64_t element_count(const Shape& shape, const std::string& where);

/// A tensor that somebody else owns, usually a mapped file. Row-major; `bytes` may be unaligned.
struct TensorView {
  DType dtype = DType::f32;
  Shape shape;
  std::span<const std::byte> bytes;

  int64_t count() const { return static_cast<int64_t>(bytes.size() / get_info(dtype).bytes); }
};

/// Borrowed row-major f32 matrix; `stride` floats from one row to the next.
template <typename Float>
struct BasicMatrixView {
  Float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  Float* row(int64_t r) const { return data + r * stride; }
  std::span<Float> row_span(int64_t r) const { return {row(r), static_cast<size_t>(cols)}; }
  BasicMatrixView row_range(int64_t first, int64_t count) const { return {row(first), count, cols, stride}; }
  BasicMatrixView column_range(int64_t first, int64_t count) const { return {data + first, rows, count, stride}; }
  operator BasicMatrixView<const Float>() const { return {data, rows, cols, stride}; }
};
using MatrixView = BasicMatrixView<float>;
using ConstMatrixView = BasicMatrixView<const float>;

/// Owned row-major f32 matrix.
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols) : rows_(rows), cols_(cols), values_(static_cast<size_t>(rows * cols)) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool empty() const { return values_.empty(); }
  float* row(int64_t r) { return values_.data() + r * cols_; }
  const float* row(int64_t r) const { return values_.data() + r * cols_; }
  std::span<float> values() { return values_; }
  std::span<const float> values() const { return values_; }
  MatrixView view() { return {values_.data(), rows_, cols_, cols_}; }
  ConstMatrixView view() const { return {values_.data(), rows_, cols_, cols_}; }

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  std::vector<float> values_;
};

}  // namespace llmc
