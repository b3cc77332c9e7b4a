#include "formats/quantized_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"

namespace llmc {

std::span<const float> QuantizedMatrix::levels(int64_t scale_index) const {
  if (scheme.grid != GridKind::codebook) return fixed_levels(scheme.grid);
  const auto count = static_cast<size_t>(scheme.centroids);
  return std::span(centroids).subspan(static_cast<size_t>(scale_index) * count, count);
}

int QuantizedMatrix::zero_code(int64_t scale_index) const {
  if (scheme.grid == GridKind::integer) return zero_points.empty() ? 0 : zero_points[static_cast<size_t>(scale_index)];
  const auto table = levels(scale_index);
  return scheme.lowest_code() + static_cast<int>(std::ranges::min_element(table, {}, [](float level) { return std::abs(level); }) - table.begin());
}

bool QuantizedMatrix::has_zero() const {
  if (scheme.grid != GridKind::codebook) return true;
  for (int64_t i = 0; i < scale_count(); ++i)
    if (!std::ranges::binary_search(levels(i), 0.0f)) return false;
  return true;
}

QuantizedMatrix make_quantized_matrix(const Scheme& scheme, DType scale_dtype, int64_t rows, int64_t cols, const std::string& where) {
  check_scheme(scheme);
  if (scheme.granularity == Granularity::group && cols % scheme.group_size != 0)
    throw Error(ErrorKind::usage, fmt::format("{}: rows of {} are not a multiple of the group size {}; choose a group size that divides {}, --granularity channel, or another scheme for this tensor with --tensor-type", where, cols, scheme.group_size, cols));
  QuantizedMatrix matrix{.scheme = scheme, .scale_dtype = scale_dtype, .rows = rows, .cols = cols};
  const auto spans = static_cast<size_t>(matrix.scale_count());
  matrix.codes.resize(static_cast<size_t>(rows * cols));
  if (scheme.grid == GridKind::codebook) matrix.centroids.resize(spans * static_cast<size_t>(scheme.centroids));
  else matrix.scales.resize(spans);
  if (scheme.mapping == Mapping::linear) matrix.zero_points.resize(spans);
  return matrix;
}

Matrix dequantize(const QuantizedMatrix& matrix) {
  Matrix values(matrix.rows, matrix.cols);
  const int64_t span = matrix.span();
  const bool even = matrix.scheme.grid == GridKind::integer;
  const int lowest = matrix.scheme.lowest_code();
  parallel_pieces(matrix.rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t start = 0; start < matrix.cols; start += span) {
        const int64_t index = matrix.scale_index(row, start);
        const float scale = matrix.scale(index);
        const int8_t* codes = matrix.codes.data() + row * matrix.cols + start;
        float* out = values.row(row) + start;
        if (even) {
          const int zero = matrix.zero_code(index);
          for (int64_t i = 0; i < span; ++i) out[i] = static_cast<float>(codes[i] - zero) * scale;
        } else {
          const float* levels = matrix.levels(index).data();
          for (int64_t i = 0; i < span; ++i) out[i] = levels[codes[i] - lowest] * scale;
        }
      }
  });
  for (size_t i = 0; i < matrix.outliers.positions.size(); ++i) values.values()[static_cast<size_t>(matrix.outliers.positions[i])] += matrix.outliers.values[i];
  return values;
}

}  // namespace llmc
