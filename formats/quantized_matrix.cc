#include "formats/quantized_matrix.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/parallel.h"

namespace llmc {

QuantizedMatrix make_quantized_matrix(const Scheme& scheme, DType scale_dtype, int64_t rows, int64_t cols, const std::string& where) {
  check_scheme(scheme);
  if (scheme.granularity == Granularity::group && cols % scheme.group_size != 0)
    throw Error(ErrorKind::usage, fmt::format("{}: rows of {} are not a multiple of the group size {}; choose a group size that divides {}, --granularity channel, or another scheme for this tensor with --tensor-type", where, cols, scheme.group_size, cols));
  QuantizedMatrix matrix{.scheme = scheme, .scale_dtype = scale_dtype, .rows = rows, .cols = cols, .codes = {}, .scales = {}, .zero_points = {}};
  matrix.codes.resize(static_cast<size_t>(rows * cols));
  matrix.scales.resize(static_cast<size_t>(matrix.scale_count()));
  if (scheme.mapping == Mapping::linear) matrix.zero_points.resize(matrix.scales.size());
  return matrix;
}

Matrix dequantize(const QuantizedMatrix& matrix) {
  Matrix values(matrix.rows, matrix.cols);
  const int64_t span = matrix.span();
  parallel_pieces(matrix.rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t start = 0; start < matrix.cols; start += span) {
        const int64_t index = matrix.scale_index(row, start);
        const float scale = matrix.scales[static_cast<size_t>(index)];
        const int zero = matrix.zero_code(index);
        const int8_t* codes = matrix.codes.data() + row * matrix.cols + start;
        float* out = values.row(row) + start;
        for (int64_t i = 0; i < span; ++i) out[i] = static_cast<float>(codes[i] - zero) * scale;
      }
  });
  return values;
}

}  // namespace llmc
