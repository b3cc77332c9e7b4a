#include "passes/rounding.h"

#include "core/parallel.h"

namespace llmc {

QuantizedMatrix round_to_nearest(ConstMatrixView weights, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where, std::span<const float> importance) {
  QuantizedMatrix result = make_quantized_matrix(scheme, scale_dtype, weights.rows, weights.cols, where);
  choose_grids(weights, importance, range, where, result);
  parallel_pieces(weights.rows, 8, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t group = 0; group < result.scale_cols(); ++group) {
        const int64_t begin = group * result.span();
        const Grid grid = get_grid(result, result.scale_index(r, begin));
        int8_t* codes = result.codes.data() + r * weights.cols;
        for (int64_t c = begin; c < begin + result.span(); ++c) codes[c] = static_cast<int8_t>(grid.code(weights.row(r)[c]));
      }
  });
  return result;
}

}  // namespace llmc
