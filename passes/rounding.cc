#include "passes/rounding.h"

#include "core/parallel.h"
#include "model/matmul.h"
#include "passes/grid_kernels.h"

namespace llmc {
namespace {

constexpr int64_t rows_at_once = 8;

std::span<int8_t> codes_of_row(QuantizedMatrix& matrix, int64_t row) { return std::span(matrix.codes).subspan(static_cast<size_t>(row * matrix.cols), static_cast<size_t>(matrix.cols)); }

/// Calls body(weights, codes, scale index) for each span of a row.
void for_each_span(std::span<const float> weights, int64_t row, QuantizedMatrix& result, auto&& body) {
  const auto span = static_cast<size_t>(result.span());
  const std::span<int8_t> codes = codes_of_row(result, row);
  for (size_t begin = 0; begin < weights.size(); begin += span) body(weights.subspan(begin, span), codes.subspan(begin, span), result.scale_index(row, static_cast<int64_t>(begin)));
}

/// A row on grids of its spans' smallest and largest values, in few calls.
void round_row(std::span<const float> weights, int64_t row, const std::string& where, QuantizedMatrix& result) {
  const auto width = static_cast<size_t>(result.span()), count = weights.size() / width;
  const std::span<float> lows = thread_scratch<float, 5>(2 * count).first(count), highs = thread_scratch<float, 5>(2 * count).last(count);
  find_ranges(weights, width, lows, highs);
  for (size_t i = 0; i < count; ++i) {
    const Grid grid = choose_grid_of_range(lows[i], highs[i], result.scheme, result.scale_dtype, where, row);
    set_grid(result, row * result.scale_cols() + static_cast<int64_t>(i), grid);
    lows[i] = grid.scale, highs[i] = grid.zero;  // in the same memory
  }
  code_spans_evenly(weights, width, lows, highs, static_cast<float>(result.scheme.lowest_code()), static_cast<float>(result.scheme.highest_code()), codes_of_row(result, row));
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
  const bool is_plain = range.rule == RangeRule::minmax && scheme.grid == GridKind::integer;
  parallel_pieces(rows.rows(), rows_at_once, [&](int64_t first, int64_t last) {
    const std::span<float> weights = thread_scratch<float, 4>(static_cast<size_t>(rows.cols()));
    for (int64_t r = first; r < last; ++r) {
      rows.read(r, weights);
      if (is_plain) {
        round_row(weights, r, tensor.name, result);
        continue;
      }
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
