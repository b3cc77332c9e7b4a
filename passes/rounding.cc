#include "passes/rounding.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"

namespace llmc {

std::string_view to_string(RangeRule rule) {
  constexpr std::array names = {"minmax", "percentile", "mse"};
  return names[static_cast<size_t>(rule)];
}

namespace {

struct Range {
  float low = 0;
  float high = 0;
};

/// Nearest integer, ties to even, for |x| < 2^22: adding 1.5 · 2^23 leaves no fraction bits. Unlike std::nearbyint it
/// compiles to vector code everywhere.
float round_even(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

/// Scale and zero point of one span, as floats that hold integers. A span of zeros has scale 1, so that every code decodes.
struct Grid {
  float scale = 1;
  float zero = 0;
  float lowest = 0;
  float highest = 0;

  float code(float x) const {
    constexpr float beyond = 1024;  // further out than any code; keeps round_even in its range
    return std::clamp(round_even(std::clamp(x / scale, -beyond, beyond)) + zero, lowest, highest);
  }
  float value(float code) const { return (code - zero) * scale; }
};

/// The grid of a range, its scale representable in `scale_dtype`.
Grid make_grid(const Range& range, const Scheme& scheme, DType scale_dtype) {
  Grid grid{.lowest = static_cast<float>(scheme.lowest_code()), .highest = static_cast<float>(scheme.highest_code())};
  if (scheme.mapping == Mapping::symmetric) {
    const float widest = std::max(std::abs(range.low), std::abs(range.high));
    if (widest > 0) grid.scale = round_to(scale_dtype, widest / grid.highest);
    return grid;
  }
  const float low = std::min(range.low, 0.0f), high = std::max(range.high, 0.0f);
  if (high > low) grid.scale = round_to(scale_dtype, (high - low) / static_cast<float>((1 << scheme.bits) - 1));
  if (grid.scale > 0) grid.zero = std::clamp(round_even(grid.lowest - low / grid.scale), grid.lowest, grid.highest);
  return grid;
}

/// The weights that share a scale: one piece of a row, a row, or all rows.
struct Span {
  ConstMatrixView weights;

  void each(auto&& body) const {
    for (int64_t r = 0; r < weights.rows; ++r)
      for (float x : weights.row_span(r)) body(x);
  }
  Range minmax() const {
    Range range{INFINITY, -INFINITY};
    each([&](float x) { range.low = std::min(range.low, x), range.high = std::max(range.high, x); });
    return range;
  }
  /// Σ(x − grid(x))². Sixteen partial sums along each row, so that it vectorizes in a fixed order.
  double squared_error(const Grid& grid) const {
    constexpr int64_t lanes = 16;
    double sum = 0;
    for (int64_t r = 0; r < weights.rows; ++r) {
      const float* row = weights.row(r);
      float partial[lanes] = {};
      int64_t c = 0;
      for (; c + lanes <= weights.cols; c += lanes)
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const float error = row[c + lane] - grid.value(grid.code(row[c + lane]));
          partial[lane] += error * error;
        }
      for (; c < weights.cols; ++c) {
        const float error = row[c] - grid.value(grid.code(row[c]));
        partial[0] += error * error;
      }
      for (float value : partial) sum += value;
    }
    return sum;
  }
};

/// Value at a percentile of sorted values, linear between neighbours.
float percentile_of(const std::vector<float>& sorted, double percentile) {
  const double at = percentile / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return static_cast<float>(sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]));
}

Range percentile_range(const Span& span, const Scheme& scheme, double percentile) {
  std::vector<float> values;
  span.each([&](float x) { values.push_back(scheme.mapping == Mapping::symmetric ? std::abs(x) : x); });
  std::ranges::sort(values);
  const float high = percentile_of(values, percentile);
  return {scheme.mapping == Mapping::symmetric ? -high : percentile_of(values, 100 - percentile), high};
}

/// Shrinks the min-max range step by step and keeps the grid with the least squared error; the first of equals wins.
Grid search_grid(const Span& span, const Scheme& scheme, DType scale_dtype) {
  constexpr int steps = 100;
  constexpr float least_share = 0.3f;
  const Range full = span.minmax();
  Grid best = make_grid(full, scheme, scale_dtype);
  double best_error = span.squared_error(best);
  for (int step = 1; step < steps && best_error > 0; ++step) {
    const float share = 1 - (1 - least_share) * static_cast<float>(step) / steps;
    const Grid grid = make_grid({full.low * share, full.high * share}, scheme, scale_dtype);
    if (!(grid.scale > 0)) break;
    const double error = span.squared_error(grid);
    if (error < best_error) best = grid, best_error = error;
  }
  return best;
}

Grid choose_grid(const Span& span, const Scheme& scheme, DType scale_dtype, const RangeOptions& options) {
  switch (options.rule) {
    case RangeRule::minmax: return make_grid(span.minmax(), scheme, scale_dtype);
    case RangeRule::percentile: return make_grid(percentile_range(span, scheme, options.percentile), scheme, scale_dtype);
    case RangeRule::mse: return search_grid(span, scheme, scale_dtype);
  }
  return {};
}

void check_grid(const Grid& grid, const Span& span, DType scale_dtype, int64_t row, const std::string& where) {
  if (std::isfinite(grid.scale) && grid.scale > 0) return;
  const Range range = span.minmax();
  throw Error(ErrorKind::input, fmt::format("tensor {}: row {}: weights from {} to {} give a scale of {} in {}; expected a positive finite one", where, row, range.low, range.high, grid.scale, get_info(scale_dtype).name));
}

}  // namespace

QuantizedMatrix round_to_nearest(ConstMatrixView weights, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where) {
  QuantizedMatrix result = make_quantized_matrix(scheme, scale_dtype, weights.rows, weights.cols, where);
  const int64_t rows_per_scale = scheme.granularity == Granularity::tensor ? weights.rows : 1;
  const int64_t span_cols = result.span();
  parallel_for(result.scale_rows(), [&](int64_t scale_row) {
    for (int64_t group = 0; group < result.scale_cols(); ++group) {
      const int64_t first_row = scale_row * rows_per_scale, first_col = group * span_cols;
      const Span span{weights.row_range(first_row, rows_per_scale).column_range(first_col, span_cols)};
      const Grid grid = choose_grid(span, scheme, scale_dtype, range);
      check_grid(grid, span, scale_dtype, first_row, where);
      const auto index = static_cast<size_t>(scale_row * result.scale_cols() + group);
      result.scales[index] = grid.scale;
      if (!result.zero_points.empty()) result.zero_points[index] = static_cast<int8_t>(grid.zero);
      for (int64_t r = 0; r < rows_per_scale; ++r)
        for (int64_t c = 0; c < span_cols; ++c)
          result.codes[static_cast<size_t>((first_row + r) * weights.cols + first_col + c)] = static_cast<int8_t>(grid.code(span.weights.row(r)[c]));
    }
  });
  return result;
}

}  // namespace llmc
