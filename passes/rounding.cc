#include "passes/rounding.h"

#include "core/parallel.h"
#include "model/matmul.h"

namespace llmc {
namespace {

constexpr int64_t rows_at_once = 8;

/// Calls body(weights, codes, scale index) for each span of a row.
void for_each_span(std::span<const float> weights, int64_t row, QuantizedMatrix& result, auto&& body) {
  const auto span = static_cast<size_t>(result.span());
  const std::span<int8_t> codes = std::span(result.codes).subspan(static_cast<size_t>(row) * weights.size(), weights.size());
  for (size_t begin = 0; begin < weights.size(); begin += span) body(weights.subspan(begin, span), codes.subspan(begin, span), result.scale_index(row, static_cast<int64_t>(begin)));
}

}  // namespace

QuantizedMatrix round_to_nearest(ConstMatrixView weights, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where, std::span<const float> importance) {
  QuantizedMatrix result = make_quantized_matrix(scheme, scale_dtype, weights.rows, weights.cols, where);
  choose_grids(weights, importance, range, where, result);
  parallel_pieces(weights.rows, rows_at_once, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) for_each_span(weights.row_span(r), r, result, [&](auto span, auto codes, int64_t index) { get_grid(result, index).code(span, codes); });
  });
  return result;
}

QuantizedMatrix round_to_nearest(const StoredTensor& tensor, const Scheme& scheme, DType scale_dtype, const RangeOptions& range) {
  const bool needs_whole = scheme.granularity == Granularity::tensor || scheme.scale == ScaleKind::e4m3 || scheme.grid == GridKind::codebook;
  if (needs_whole) return round_to_nearest(read_matrix(tensor).view(), scheme, scale_dtype, range, tensor.name);
  const TensorRows rows(tensor);
  QuantizedMatrix result = make_quantized_matrix(scheme, scale_dtype, rows.rows(), rows.cols(), tensor.name);
  parallel_pieces(rows.rows(), rows_at_once, [&](int64_t first, int64_t last) {
    const std::span<float> weights = thread_scratch<float, 4>(static_cast<size_t>(rows.cols()));
    for (int64_t r = first; r < last; ++r) {
      rows.read(r, weights);
      for_each_span(weights, r, result, [&](auto span, auto codes, int64_t index) {
        const auto cols = static_cast<int64_t>(span.size());
        const Grid grid = choose_grid({span.data(), 1, cols, cols}, {}, scheme, scale_dtype, range, tensor.name, r);
        set_grid(result, index, grid);
        grid.code(span, codes);
      });
    }
  });
  return result;
}

}  // namespace llmc
