// Owns a quantized weight in memory: codes, scales and zero points, whatever container they came from or go to.
#pragma once

#include <cstdint>
#include <vector>

#include "core/page_memory.h"
#include "core/tensor.h"
#include "formats/scheme.h"

namespace llmc {

/// A few weights that are kept in 16 bits: what their codes mean (0, as a rule) plus a float.
struct Outliers {
  DType dtype = DType::bf16;        ///< f16 or bf16; every value is exactly representable in it
  std::vector<int64_t> positions;   ///< row · cols + col, ascending
  std::vector<float> values;        ///< one per position

  bool empty() const { return positions.empty(); }
  bool operator==(const Outliers&) const = default;
};

/// A matrix [rows, cols] on the grid of its scheme: value = (code − zero point) · scale, or level(code) · scale, or
/// centroid(code); outliers are added.
struct QuantizedMatrix {
  Scheme scheme;
  DType scale_dtype = DType::f32;    ///< every scale (or centroid) is exactly representable in it
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<int8_t, PageAllocator<int8_t>> codes;  ///< [rows, cols], from scheme.lowest_code() to scheme.highest_code()
  std::vector<float> scales;         ///< [scale_rows, scale_cols]; empty for a codebook
  std::vector<int8_t> zero_points;   ///< [scale_rows, scale_cols] for linear, empty for symmetric
  float global_scale = 1;            ///< divides every scale; other than 1 for ScaleKind::e4m3 only
  std::vector<float> centroids;      ///< [scale_rows · scale_cols, scheme.centroids], ascending in each row; empty but for a codebook
  Outliers outliers;

  int64_t scale_rows() const { return scheme.granularity == Granularity::tensor ? 1 : rows; }
  int64_t scale_cols() const { return scheme.granularity == Granularity::group ? cols / scheme.group_size : 1; }
  /// Spans of weights that share a grid.
  int64_t scale_count() const { return scale_rows() * scale_cols(); }
  /// Weights along a row that share a scale.
  int64_t span() const { return scheme.granularity == Granularity::group ? scheme.group_size : cols; }
  /// Position in `scales` of the weight at (row, col).
  int64_t scale_index(int64_t row, int64_t col) const {
    return (scheme.granularity == Granularity::tensor ? 0 : row) * scale_cols() + col / span();
  }
  /// What a level of the span is multiplied by.
  float scale(int64_t scale_index) const { return scales.empty() ? 1 : scales[static_cast<size_t>(scale_index)] / global_scale; }
  /// What codes mean before the scale, ascending from the lowest code. Empty on an integer grid.
  std::span<const float> levels(int64_t scale_index) const;
  /// The code that means 0; in a codebook without one, the code nearest to 0.
  int zero_code(int64_t scale_index) const;
  /// Whether every span has a code that means 0: always, but for codebooks.
  bool has_zero() const;
  bool operator==(const QuantizedMatrix&) const = default;
};

/// An empty matrix of the right sizes. Throws Error(usage) when the group size does not divide `cols`, naming `where`.
QuantizedMatrix make_quantized_matrix(const Scheme& scheme, DType scale_dtype, int64_t rows, int64_t cols, const std::string& where);

/// In f32: (code − zero point) · scale or level · scale, rounded once per weight, plus the outlier where there is one: what
/// readers of the formats compute too.
Matrix dequantize(const QuantizedMatrix& matrix);

}  // namespace llmc
