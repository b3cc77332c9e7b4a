// Owns a quantized weight in memory: codes, scales and zero points, whatever container they came from or go to.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "formats/scheme.h"

namespace llmc {

/// A matrix [rows, cols] on the grid of its scheme: value = (code − zero point) · scale.
struct QuantizedMatrix {
  Scheme scheme;
  DType scale_dtype = DType::f32;    ///< every scale is exactly representable in it
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<int8_t> codes;         ///< [rows, cols], from scheme.lowest_code() to scheme.highest_code()
  std::vector<float> scales;         ///< [scale_rows, scale_cols]
  std::vector<int8_t> zero_points;   ///< [scale_rows, scale_cols] for linear, empty for symmetric

  int64_t scale_rows() const { return scheme.granularity == Granularity::tensor ? 1 : rows; }
  int64_t scale_cols() const { return scheme.granularity == Granularity::group ? cols / scheme.group_size : 1; }
  int64_t scale_count() const { return scale_rows() * scale_cols(); }
  /// Weights along a row that share a scale.
  int64_t span() const { return scheme.granularity == Granularity::group ? scheme.group_size : cols; }
  /// Position in `scales` of the weight at (row, col).
  int64_t scale_index(int64_t row, int64_t col) const {
    return (scheme.granularity == Granularity::tensor ? 0 : row) * scale_cols() + col / span();
  }
  /// The code that means 0.
  int zero_code(int64_t scale_index) const { return zero_points.empty() ? 0 : zero_points[static_cast<size_t>(scale_index)]; }
  bool operator==(const QuantizedMatrix&) const = default;
};

/// An empty matrix of the right sizes. Throws Error(usage) when the group size does not divide `cols`, naming `where`.
QuantizedMatrix make_quantized_matrix(const Scheme& scheme, DType scale_dtype, int64_t rows, int64_t cols, const std::string& where);

/// (code − zero point) · scale in f32, one rounding per weight: what readers of the formats compute too.
Matrix dequantize(const QuantizedMatrix& matrix);

}  // namespace llmc
