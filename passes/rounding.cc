#include "passes/rounding.h"

#include "core/parallel.h"

namespace llmc {

QuantizedMatrix round_to_nearest(ConstMatrixView weights, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where, std::span<const float> importance) {
  QuantizedMatrix result = make_quantized_matrix(scheme, scale_dtype, weights.rows, weights.cols, where);
  const int64_t rows_per_scale = scheme.granularity == Granularity::tensor ? weights.rows : 1;
  const int64_t span_cols = result.span();
  parallel_for(result.scale_rows(), [&](int64_t scale_row) {
    for (int64_t group = 0; group < result.scale_cols(); ++group) {
      const int64_t first_row = scale_row * rows_per_scale, first_col = group * span_cols;
      const ConstMatrixView span = weights.row_range(first_row, rows_per_scale).column_range(first_col, span_cols);
      const auto span_importance = importance.empty() ? importance : importance.subspan(static_cast<size_t>(first_col), static_cast<size_t>(span_cols));
      const Grid grid = choose_grid(span, span_importance, scheme, scale_dtype, range, where, first_row);
      set_grid(result, scale_row * result.scale_cols() + group, grid);
      for (int64_t r = 0; r < rows_per_scale; ++r)
        for (int64_t c = 0; c < span_cols; ++c)
          result.codes[static_cast<size_t>((first_row + r) * weights.cols + first_col + c)] = static_cast<int8_t>(grid.code(span.row(r)[c]));
    }
  });
  return result;
}

}  // namespace llmc
