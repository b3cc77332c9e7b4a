#include "passes/grid.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "passes/half_quadratic.h"

namespace llmc {

std::string_view to_string(RangeRule rule) {
  constexpr std::array names = {"minmax", "percentile", "mse", "hqq"};
  return names[static_cast<size_t>(rule)];
}

namespace {

struct Range {
  float low = 0;
  float high = 0;
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
  if (grid.scale > 0) grid.zero = std::clamp(Grid::round_even(grid.lowest - low / grid.scale), grid.lowest, grid.highest);
  return grid;
}

/// The weights that share a scale: one piece of a row, a row, or all rows.
struct Span {
  ConstMatrixView weights;
  std::span<const float> importance;  ///< [cols] or empty

  void each(auto&& body) const {
    for (int64_t r = 0; r < weights.rows; ++r)
      for (float x : weights.row_span(r)) body(x);
  }
  Range minmax() const {
    Range range{INFINITY, -INFINITY};
    each([&](float x) { range.low = std::min(range.low, x), range.high = std::max(range.high, x); });
    return range;
  }
  /// Σ importance · (x − grid(x))². Sixteen partial sums along each row, so that it vectorizes in a fixed order.
  double squared_error(const Grid& grid) const { return importance.empty() ? sum_errors(grid, [](int64_t) { return 1.0f; }) : sum_errors(grid, [this](int64_t c) { return importance[static_cast<size_t>(c)]; }); }

 private:
  double sum_errors(const Grid& grid, auto&& weight_of) const {
    constexpr int64_t lanes = 16;
    double sum = 0;
    for (int64_t r = 0; r < weights.rows; ++r) {
      const float* row = weights.row(r);
      float partial[lanes] = {};
      int64_t c = 0;
      for (; c + lanes <= weights.cols; c += lanes)
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const float error = row[c + lane] - grid.value(grid.code(row[c + lane]));
          partial[lane] += weight_of(c + lane) * error * error;
        }
      for (; c < weights.cols; ++c) {
        const float error = row[c] - grid.value(grid.code(row[c]));
        partial[0] += weight_of(c) * error * error;
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

/// The half-quadratic search goes downhill only: it starts from the min-max range and from that of least squared error, and the
/// better end counts.
Grid search_fitted_grid(const Span& span, const Scheme& scheme, DType scale_dtype) {
  const Grid widest = make_grid(span.minmax(), scheme, scale_dtype);
  if (!(widest.scale > 0 && std::isfinite(widest.scale))) return widest;
  const auto search = [&](const Grid& start) { return search_half_quadratic(span.weights, span.importance, start, scheme, scale_dtype); };
  const Grid from_widest = search(widest), from_squares = search(search_grid(span, scheme, scale_dtype));
  const auto error = [&](const Grid& grid) { return grid_error(span.weights, span.importance, grid); };
  return error(from_squares) < error(from_widest) ? from_squares : from_widest;
}

Grid find_grid(const Span& span, const Scheme& scheme, DType scale_dtype, const RangeOptions& options) {
  switch (options.rule) {
    case RangeRule::minmax: return make_grid(span.minmax(), scheme, scale_dtype);
    case RangeRule::percentile: return make_grid(percentile_range(span, scheme, options.percentile), scheme, scale_dtype);
    case RangeRule::mse: return search_grid(span, scheme, scale_dtype);
    case RangeRule::hqq: return search_fitted_grid(span, scheme, scale_dtype);
  }
  return {};
}

}  // namespace

Grid choose_grid(ConstMatrixView weights, std::span<const float> importance, const Scheme& scheme, DType scale_dtype, const RangeOptions& options, const std::string& where, int64_t row) {
  const Span span{weights, importance};
  const Grid grid = find_grid(span, scheme, scale_dtype, options);
  if (std::isfinite(grid.scale) && grid.scale > 0) return grid;
  const Range range = span.minmax();
  throw Error(ErrorKind::input, fmt::format("tensor {}: row {}: weights from {} to {} give a scale of {} in {}; expected a positive finite one", where, row, range.low, range.high, grid.scale, get_info(scale_dtype).name));
}

void choose_grids(ConstMatrixView weights, std::span<const float> importance, const RangeOptions& options, const std::string& where, QuantizedMatrix& result) {
  const int64_t rows_per_scale = result.scheme.granularity == Granularity::tensor ? weights.rows : 1;
  const int64_t span_cols = result.span();
  parallel_for(result.scale_rows(), [&](int64_t scale_row) {
    for (int64_t group = 0; group < result.scale_cols(); ++group) {
      const int64_t first_row = scale_row * rows_per_scale, first_col = group * span_cols;
      const ConstMatrixView span = weights.row_range(first_row, rows_per_scale).column_range(first_col, span_cols);
      const auto span_importance = importance.empty() ? importance : importance.subspan(static_cast<size_t>(first_col), static_cast<size_t>(span_cols));
      set_grid(result, scale_row * result.scale_cols() + group, choose_grid(span, span_importance, result.scheme, result.scale_dtype, options, where, first_row));
    }
  });
}

void set_grid(QuantizedMatrix& matrix, int64_t scale_index, const Grid& grid) {
  matrix.scales[static_cast<size_t>(scale_index)] = grid.scale;
  if (!matrix.zero_points.empty()) matrix.zero_points[static_cast<size_t>(scale_index)] = static_cast<int8_t>(grid.zero);
}

Grid get_grid(const QuantizedMatrix& matrix, int64_t scale_index) {
  return {.scale = matrix.scales[static_cast<size_t>(scale_index)], .zero = static_cast<float>(matrix.zero_code(scale_index)), .lowest = static_cast<float>(matrix.scheme.lowest_code()), .highest = static_cast<float>(matrix.scheme.highest_code())};
}

}  // namespace llmc
