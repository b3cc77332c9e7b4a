#include "passes/rounding.h"

#include <algorithm>
#include <bit>

#include "core/parallel.h"
#include "model/kernels.h"
#include "model/matmul.h"
#include "passes/span_kernels.h"

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

/// Scales as the matrix stores them.
void round_scales(const QuantizedMatrix& matrix, std::span<float> scales) {
  if (matrix.scale_dtype == DType::bf16) return round_to_bf16(scales, scales);
  for (float& scale : scales) scale = round_to(matrix.scale_dtype, scale);
}

/// A row on grids of its spans' smallest and largest values, as choose_grid_of_range makes them, in few calls.
void round_row(const auto& weights, int64_t row, const std::string& where, QuantizedMatrix& result) {
  const Scheme& scheme = result.scheme;
  const bool is_linear = scheme.mapping == Mapping::linear;
  const auto width = static_cast<size_t>(result.span()), count = static_cast<size_t>(result.scale_cols()), first = static_cast<size_t>(row) * count;
  const auto lowest = static_cast<float>(scheme.lowest_code()), highest = static_cast<float>(scheme.highest_code());
  const std::span<float> scratch = thread_scratch<float, 5>(4 * count), lows = scratch.subspan(0, count), highs = scratch.subspan(count, count), zeros = scratch.subspan(2 * count, count), inverses = scratch.subspan(3 * count, count);
  const std::span<float> scales = std::span(result.scales).subspan(first, count);
  find_ranges(weights, width, lows, highs);
  find_scales(lows, highs, is_linear, is_linear ? highest - lowest : highest, scales);
  round_scales(result, scales);
  if (!invert_scales(scales, inverses))
    for (size_t i = 0; i < count; ++i) choose_grid_of_range(lows[i], highs[i], scheme, result.scale_dtype, where, row);  // throws
  if (is_linear) {
    find_zeros(lows, scales, lowest, highest, zeros);
    for (size_t i = 0; i < count; ++i) result.zero_points[first + i] = static_cast<int8_t>(zeros[i]);
  } else {
    std::ranges::fill(zeros, 0.0f);
  }
  code_spans(weights, {.width = width, .scales = scales, .inverses = inverses, .zeros = zeros, .lowest = lowest, .highest = highest}, codes_of_row(result, row));
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
  const bool is_plain = range.rule == RangeRule::minmax && scheme.grid == GridKind::integer && scheme.scale == ScaleKind::floating;
  const Bf16Row halves = is_plain && rows.is_bf16() && std::endian::native == std::endian::little ? std::get<FloatData>(tensor.form).bytes() : Bf16Row();
  const auto row_bytes = 2 * static_cast<size_t>(rows.cols());
  parallel_pieces(rows.rows(), rows_at_once, [&](int64_t first, int64_t last) {
    if (!halves.empty()) {
      for (int64_t r = first; r < last; ++r) round_row(halves.subspan(static_cast<size_t>(r) * row_bytes, row_bytes), r, tensor.name, result);
      return;
    }
    const std::span<float> weights = thread_scratch<float, 4>(static_cast<size_t>(rows.cols()));
    for (int64_t r = first; r < last; ++r) {
      rows.read(r, weights);
      if (is_plain) {
        round_row(std::span<const float>(weights), r, tensor.name, result);
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
