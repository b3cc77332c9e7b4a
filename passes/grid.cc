#include "passes/grid.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "passes/grid_kernels.h"
#include "passes/half_quadratic.h"

namespace llmc {

std::string_view to_string(RangeRule rule) {
  constexpr std::array names = {"minmax", "percentile", "mse", "hqq"};
  return names[static_cast<size_t>(rule)];
}

namespace {

constexpr size_t most_compared = 16;  ///< levels; with more of them a search for each weight is faster

struct ValueRange {
  float low = 0;
  float high = 0;
};

/// What a grid is made of, but for the weights.
struct GridRules {
  const Scheme& scheme;
  ScaleRounding stored;
};

/// The smallest power of two s such that widest / s exceeds the highest level by half the last step at most.
float power_of_two_scale(float widest, std::span<const float> levels) {
  const float top = levels.back(), reach = top + (top - levels[levels.size() - 2]) / 2;
  int exponent = 0;
  const float fraction = std::frexp(widest, &exponent), reach_fraction = std::frexp(reach, &exponent);
  const int shift = std::ilogb(widest) - std::ilogb(reach) + (fraction > reach_fraction ? 1 : 0);
  return std::ldexp(1.0f, std::clamp(shift, -127, 127));
}

/// The grid of a range, its scale representable as the scheme stores it.
Grid make_grid(const ValueRange& range, const GridRules& rules) {
  const Scheme& scheme = rules.scheme;
  Grid grid{.lowest = static_cast<float>(scheme.lowest_code()), .highest = static_cast<float>(scheme.highest_code()), .kind = scheme.grid, .levels = fixed_levels(scheme.grid)};
  if (scheme.mapping == Mapping::symmetric) {
    const float widest = std::max(std::abs(range.low), std::abs(range.high));
    if (scheme.scale == ScaleKind::e4m3) grid.scale = rules.stored(1 / rules.stored.global_scale);
    if (widest > 0) grid.scale = scheme.scale == ScaleKind::power_of_two ? power_of_two_scale(widest, grid.levels) : rules.stored(widest / (grid.is_even() ? grid.highest : grid.levels.back()));
    return grid;
  }
  const float low = std::min(range.low, 0.0f), high = std::max(range.high, 0.0f);
  if (high > low) grid.scale = rules.stored((high - low) / static_cast<float>((1 << scheme.bits) - 1));
  if (grid.scale > 0) grid.zero = std::clamp(Grid::round_even(grid.lowest - low / grid.scale), grid.lowest, grid.highest);
  return grid;
}

/// The weights that share a scale: one piece of a row, a row, or all rows.
struct WeightSpan {
  ConstMatrixView weights;
  std::span<const float> importance;  ///< [cols] or empty

  void each(auto&& body) const {
    for (int64_t r = 0; r < weights.rows; ++r)
      for (float x : weights.row_span(r)) body(x);
  }
  ValueRange minmax() const {
    ValueRange range{INFINITY, -INFINITY};
    for (int64_t r = 0; r < weights.rows; ++r) widen_range(weights.row_span(r), range.low, range.high);
    return range;
  }
  /// Σ importance · (x − grid(x))². Sixteen partial sums along each row, so that it vectorizes in a fixed order.
  double squared_error(const Grid& grid) const { return sum_errors(grid, nullptr); }
  /// Of an even grid, and with the other sign of its scale.
  std::pair<double, double> squared_errors_of_both_signs(const Grid& grid) const {
    double mirrored = 0;
    const double error = sum_errors(grid, &mirrored);
    return {error, mirrored};
  }

 private:
  double sum_errors(const Grid& grid, double* mirrored) const {
    constexpr int64_t lanes = std::tuple_size_v<PartialSums>, block = 256;
    double sum = 0;
    float rounded[block];
    for (int64_t r = 0; r < weights.rows; ++r) {
      PartialSums partial{}, of_mirrored{};
      const std::span<const float> row = weights.row_span(r);
      const auto add_each = [&](const Grid& with, int64_t begin, PartialSums& to) {
        const auto count = std::min<size_t>(block, row.size() - static_cast<size_t>(begin));
        with.round(row.subspan(static_cast<size_t>(begin), count), {rounded, count});
        for (size_t i = 0; i < count; ++i) {
          const auto c = static_cast<size_t>(begin) + i;
          const float error = row[c] - rounded[i];
          to[c < row.size() / lanes * lanes ? i % lanes : 0] += (importance.empty() ? error : importance[c] * error) * error;
        }
      };
      const int64_t whole = grid.is_even() ? weights.cols / lanes * lanes : 0;
      if (whole > 0) add_squared_errors(row.first(static_cast<size_t>(whole)), importance.empty() ? nullptr : importance.data(), grid.scale, grid.zero, grid.lowest, grid.highest, partial, mirrored ? &of_mirrored : nullptr);
      for (int64_t begin = whole; begin < weights.cols; begin += block) {
        add_each(grid, begin, partial);
        if (!mirrored) continue;
        Grid other = grid;
        other.scale = -grid.scale;
        add_each(other, begin, of_mirrored);
      }
      for (const float value : partial) sum += value;
      if (mirrored)
        for (const float value : of_mirrored) *mirrored += value;
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

ValueRange percentile_range(const WeightSpan& span, const Scheme& scheme, double percentile) {
  std::vector<float> values;
  span.each([&](float x) { values.push_back(scheme.mapping == Mapping::symmetric ? std::abs(x) : x); });
  std::ranges::sort(values);
  const float high = percentile_of(values, percentile);
  return {scheme.mapping == Mapping::symmetric ? -high : percentile_of(values, 100 - percentile), high};
}

/// Integer codes reach one step further below 0 than above it: with a negative scale that step is on the other side.
bool may_be_mirrored(const Scheme& scheme) { return scheme.mapping == Mapping::symmetric && scheme.grid == GridKind::integer && scheme.scale == ScaleKind::floating; }

/// Shrinks the min-max range step by step and keeps the grid with the least squared error; the first of equals wins. Levels
/// that are denser near 0 may gain from a wider range, too; symmetric integers from a negative scale.
Grid search_grid(const WeightSpan& span, const GridRules& rules) {
  constexpr int steps = 100;
  constexpr float least_share = 0.3f;
  const ValueRange full = span.minmax();
  Grid best = make_grid(full, rules);
  const float widest_share = best.is_even() ? 1.0f : 1.5f;
  double best_error = span.squared_error(best);
  float tried = best.scale;
  for (int step = 0; step < steps && best_error > 0; ++step) {
    const float share = widest_share - (widest_share - least_share) * static_cast<float>(step) / steps;
    const Grid grid = make_grid({full.low * share, full.high * share}, rules);
    if (!(grid.scale > 0)) break;
    if (!grid.is_even() && grid.scale == tried) continue;
    tried = grid.scale;
    const auto consider = [&](float scale, double error) {
      if (error < best_error) best = grid, best.scale = scale, best_error = error;
    };
    if (!may_be_mirrored(rules.scheme)) {
      consider(grid.scale, span.squared_error(grid));
      continue;
    }
    const auto [error, mirrored] = span.squared_errors_of_both_signs(grid);
    consider(grid.scale, error);
    consider(-grid.scale, mirrored);
  }
  return best;
}

/// The half-quadratic search goes downhill only: it starts from the min-max range and from that of least squared error, and the
/// better end counts.
Grid search_fitted_grid(const WeightSpan& span, const GridRules& rules) {
  const Grid widest = make_grid(span.minmax(), rules);
  if (!(widest.scale > 0 && std::isfinite(widest.scale))) return widest;
  const auto search = [&](const Grid& start) { return search_half_quadratic(span.weights, span.importance, start, rules.scheme, rules.stored); };
  const Grid from_widest = search(widest), from_squares = search(search_grid(span, rules));
  const auto error = [&](const Grid& grid) { return grid_error(span.weights, span.importance, grid); };
  return error(from_squares) < error(from_widest) ? from_squares : from_widest;
}

Grid find_grid(const WeightSpan& span, const GridRules& rules, const RangeOptions& options) {
  switch (options.rule) {
    case RangeRule::minmax: return make_grid(span.minmax(), rules);
    case RangeRule::percentile: return make_grid(percentile_range(span, rules.scheme, options.percentile), rules);
    case RangeRule::mse: return search_grid(span, rules);
    case RangeRule::hqq: return search_fitted_grid(span, rules);
  }
  return {};
}

/// The largest power of two that keeps max|x| / highest level · global within E4M3. A power of two changes no digits: a
/// level times such a scale has six of them, and is exact in bf16 and f16 as in f32.
float choose_global_scale(ConstMatrixView weights, std::span<const float> levels) {
  constexpr float largest_e4m3 = 448;
  const ValueRange range = WeightSpan{weights, {}}.minmax();
  const float widest = std::max(std::abs(range.low), std::abs(range.high)), reach = largest_e4m3 * levels.back();
  if (!(widest > 0)) return 1;
  int exponent = 0;
  const bool borrows = std::frexp(reach, &exponent) < std::frexp(widest, &exponent);
  return std::ldexp(1.0f, std::clamp(std::ilogb(reach) - std::ilogb(widest) - (borrows ? 1 : 0), -126, 126));
}

}  // namespace

float ScaleRounding::operator()(float scale) const {
  switch (kind) {
    case ScaleKind::floating: return round_to(dtype, scale);
    case ScaleKind::power_of_two: return round_to(DType::f8_e8m0, scale * std::numbers::sqrt2_v<float>);
    case ScaleKind::e4m3: return std::max(round_to(DType::f8_e4m3, scale * global_scale), 0x1p-9f) / global_scale;  // 2^-9: the smallest
  }
  return 0;
}

void Grid::round(std::span<const float> x, std::span<float> rounded) const {
  assert(x.size() == rounded.size());
  if (is_even())
    round_evenly(x, scale, zero, lowest, highest, rounded);
  else if (levels.size() <= most_compared)
    compare_levels(x, rounded);
  else if (const FloatFormat* format = find_float_format(kind))
    round_floats(*format, x, rounded);
  else
    for (size_t i = 0; i < x.size(); ++i) rounded[i] = value(level_code(x[i]));
}

void Grid::code(std::span<const float> x, std::span<int8_t> codes) const {
  assert(x.size() == codes.size());
  if (is_even()) return code_evenly(x, scale, zero, lowest, highest, codes);
  for (size_t i = 0; i < x.size(); ++i) codes[i] = static_cast<int8_t>(level_code(x[i]));
}

void Grid::compare_levels(std::span<const float> x, std::span<float> rounded) const {
  float thresholds[most_compared], values[most_compared];
  for (size_t i = 0; i < levels.size(); ++i) {
    values[i] = levels[i] * scale;
    if (i == 0) continue;
    const bool is_even_code = (static_cast<int>(lowest) + static_cast<int>(i)) % 2 == 0;
    const float middle = (levels[i - 1] + levels[i]) / 2;
    thresholds[i - 1] = is_even_code ? std::nextafter(middle, -INFINITY) : middle;
  }
  round_by_thresholds(x, scale, {thresholds, levels.size() - 1}, {values, levels.size()}, rounded);
}

/// Keeps the leading bits of the significand of normal values; adding and taking off 1.5 · 2^23 steps does it for the others.
void Grid::round_floats(const FloatFormat& format, std::span<const float> x, std::span<float> rounded) const {
  const int dropped = 23 - format.mantissa_bits;
  const uint32_t half = (1u << (dropped - 1)) - 1, kept = ~((1u << dropped) - 1);
  const float smallest_normal = std::ldexp(1.0f, 1 - format.bias), magic = std::ldexp(1.5f, 24 - format.bias - format.mantissa_bits), top = levels.back();
  for (size_t i = 0; i < x.size(); ++i) {
    const float size = std::abs(x[i] / scale);
    const uint32_t bits = std::bit_cast<uint32_t>(size);
    const float normal = std::bit_cast<float>((bits + half + ((bits >> dropped) & 1u)) & kept), other = (size + magic) - magic;
    rounded[i] = std::copysign(std::min(size < smallest_normal ? other : normal, top), x[i]) * scale;
  }
}

float Grid::level_code(float x) const {
  const float wanted = x / scale;
  const auto above = std::ranges::lower_bound(levels, wanted) - levels.begin();
  if (above == 0) return lowest;
  const auto index = static_cast<size_t>(above);
  if (index == levels.size()) return highest;
  const float over = levels[index] - wanted, under = wanted - levels[index - 1], code = lowest + static_cast<float>(above);
  const bool take_lower = under < over || (under == over && std::fmod(code, 2.0f) != 0);  // ties to the even code
  return take_lower ? code - 1 : code;
}

namespace {

/// The grid, if it can be used for weights in that range.
Grid checked(const Grid& grid, const ValueRange& range, DType scale_dtype, const std::string& where, int64_t row) {
  if (std::isfinite(grid.scale) && grid.scale != 0) return grid;
  throw Error(ErrorKind::input, fmt::format("tensor {}: row {}: weights from {} to {} give a scale of {} in {}; expected a finite one that is not 0", where, row, range.low, range.high, grid.scale, get_info(scale_dtype).name));
}

}  // namespace

Grid choose_grid(ConstMatrixView weights, std::span<const float> importance, const Scheme& scheme, DType scale_dtype, const RangeOptions& options, const std::string& where, int64_t row, float global_scale) {
  assert(scheme.grid != GridKind::codebook);
  const WeightSpan span{weights, importance};
  const Grid grid = find_grid(span, {scheme, {scheme.scale, scale_dtype, global_scale}}, options);
  return std::isfinite(grid.scale) && grid.scale != 0 ? grid : checked(grid, span.minmax(), scale_dtype, where, row);
}

Grid choose_grid_of_range(float low, float high, const Scheme& scheme, DType scale_dtype, const std::string& where, int64_t row) {
  const ValueRange range{low, high};
  return checked(make_grid(range, {scheme, {scheme.scale, scale_dtype, 1}}), range, scale_dtype, where, row);
}

void choose_grids(ConstMatrixView weights, std::span<const float> importance, const RangeOptions& options, const std::string& where, QuantizedMatrix& result) {
  const Scheme& scheme = result.scheme;
  const int64_t rows_per_scale = scheme.granularity == Granularity::tensor ? weights.rows : 1;
  const int64_t span_cols = result.span();
  if (scheme.scale == ScaleKind::e4m3) result.global_scale = choose_global_scale(weights, fixed_levels(scheme.grid));
  parallel_for(result.scale_rows(), [&](int64_t scale_row) {
    for (int64_t group = 0; group < result.scale_cols(); ++group) {
      const int64_t first_row = scale_row * rows_per_scale, first_col = group * span_cols, index = scale_row * result.scale_cols() + group;
      const ConstMatrixView span = weights.row_range(first_row, rows_per_scale).column_range(first_col, span_cols);
      const auto span_importance = importance.empty() ? importance : importance.subspan(static_cast<size_t>(first_col), static_cast<size_t>(span_cols));
      if (scheme.grid == GridKind::codebook)
        std::ranges::copy(fit_codebook(span, span_importance, scheme.centroids, result.scale_dtype, options.zero), result.centroids.begin() + index * scheme.centroids);
      else
        set_grid(result, index, choose_grid(span, span_importance, scheme, result.scale_dtype, options, where, first_row, result.global_scale));
    }
  });
}

void set_grid(QuantizedMatrix& matrix, int64_t scale_index, const Grid& grid) {
  matrix.scales[static_cast<size_t>(scale_index)] = grid.scale * matrix.global_scale;
  if (!matrix.zero_points.empty()) matrix.zero_points[static_cast<size_t>(scale_index)] = static_cast<int8_t>(grid.zero);
}

ScaleRounding stored_scales(const QuantizedMatrix& matrix) { return {matrix.scheme.scale, matrix.scale_dtype, matrix.global_scale}; }

Grid get_grid(const QuantizedMatrix& matrix, int64_t scale_index) {
  Grid grid{.scale = matrix.scale(scale_index), .lowest = static_cast<float>(matrix.scheme.lowest_code()), .highest = static_cast<float>(matrix.scheme.highest_code()), .kind = matrix.scheme.grid};
  if (!grid.is_even()) grid.levels = matrix.levels(scale_index);
  else if (!matrix.zero_points.empty()) grid.zero = matrix.zero_points[static_cast<size_t>(scale_index)];
  return grid;
}

}  // namespace llmc
