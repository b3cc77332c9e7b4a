// Owns grids: the values that the weights of one span (a group, a channel, a tensor) round to, and how a grid's range is chosen.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/tensor.h"
#include "formats/quantized_matrix.h"
#include "passes/codebook.h"

namespace llmc {

/// How the range of a span of weights is chosen.
enum class RangeRule {
  minmax,      ///< the smallest range that holds every weight
  percentile,  ///< leaves out the share of weights past a percentile; they are clipped
  mse,         ///< the shrunk min-max range with the least squared error, searched over 100 steps, with either sign of a symmetric integer scale
  hqq,         ///< scale and zero point fitted by half-quadratic splitting, judged by Σ|error|^2.5
};
std::string_view to_string(RangeRule rule);

struct RangeOptions {
  RangeRule rule = RangeRule::minmax;
  double percentile = 99.9;  ///< for RangeRule::percentile: of |x| if symmetric, of both tails if linear
  ZeroLevel zero = ZeroLevel::free;  ///< kept: 0 is on the grid of a codebook too, as pruned weights and outliers need it

  bool operator==(const RangeOptions&) const = default;
};

/// The values of one span: all that a rounding method knows of a scheme. Evenly spaced values have a scale and a zero point,
/// floats that hold integers; others are levels times a scale. Codes ascend with the values, and with a negative scale (of
/// symmetric integers) against them. A span of zeros has scale 1, so that every code decodes.
struct Grid {
  float scale = 1;
  float zero = 0;
  float lowest = 0;   ///< code
  float highest = 0;  ///< code
  GridKind kind = GridKind::integer;
  std::span<const float> levels;  ///< ascending from the lowest code; empty when evenly spaced. Borrowed: tables, or centroids of a matrix

  bool is_even() const { return kind == GridKind::integer; }

  /// Nearest integer, ties to even, for |x| < 2^22: adding 1.5 · 2^23 leaves no fraction bits. Unlike std::nearbyint it
  /// compiles to vector code everywhere.
  static float round_even(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

  /// The code nearest to x, clipped to the grid.
  float code(float x) const { return is_even() ? even_code(x) : level_code(x); }
  float value(float code) const { return is_even() ? even_value(code) : levels[static_cast<size_t>(code - lowest)] * scale; }

  /// The same for evenly spaced values; loops over these compile to vector code.
  float even_code(float x) const {
    constexpr float beyond = 1024;  // further out than any code; keeps round_even in its range
    return std::clamp(round_even(std::clamp(x / scale, -beyond, beyond)) + zero, lowest, highest);
  }
  float even_value(float code) const { return (code - zero) * scale; }

  /// code(x) of many weights, in vector code where evenly spaced.
  void code(std::span<const float> x, std::span<int8_t> codes) const;
  /// value(code(x)) of many weights, in vector code but for codebooks of more than 16 levels.
  void round(std::span<const float> x, std::span<float> rounded) const;

 private:
  float level_code(float x) const;
  void compare_levels(std::span<const float> x, std::span<float> rounded) const;
  void round_floats(const FloatFormat& format, std::span<const float> x, std::span<float> rounded) const;
};

/// How a scheme stores a scale: the nearest value that its type holds, a power of two the nearest in proportion. Only
/// ScaleKind::floating may be negative.
struct ScaleRounding {
  ScaleKind kind = ScaleKind::floating;
  DType dtype = DType::f32;
  float global_scale = 1;  ///< as in QuantizedMatrix

  float operator()(float scale) const;
};

/// The grid of a span of `weights` [rows, cols], its scale rounded to `scale_dtype` so that nothing is lost in storing it.
///   symmetric: s = max|x| / (2^(b−1) − 1)
///   linear:    s = (x_max − x_min) / (2^b − 1), the range widened to hold 0 and moved so that 0 has an integer code
///   levels:    s = max|x| / highest level; a power of two when the scheme says so, then the smallest with which the largest
///              weight is clipped by half the last step at most
/// `importance` [cols] weighs the errors that RangeRule::mse and hqq compare; empty: all alike. `global_scale` as in
/// QuantizedMatrix. Not for codebooks. Throws Error(input) naming `where` and `row` when the scale is not finite or is too
/// small for its dtype.
Grid choose_grid(ConstMatrixView weights, std::span<const float> importance, const Scheme& scheme, DType scale_dtype, const RangeOptions& options, const std::string& where, int64_t row, float global_scale = 1);

/// The grid of weights from `low` to `high`, as choose_grid makes it by RangeRule::minmax.
Grid choose_grid_of_range(float low, float high, const Scheme& scheme, DType scale_dtype, const std::string& where, int64_t row);

/// Chooses the grid of every span of `result`, whose scheme, sizes and scale_dtype are set, from `weights`. NVFP4: the scale
/// of the tensor first, the largest power of two that keeps every E4M3 scale in range, so that products are exact in any
/// float type. A codebook: its centroids (passes/codebook.h), whatever the range rule.
void choose_grids(ConstMatrixView weights, std::span<const float> importance, const RangeOptions& options, const std::string& where, QuantizedMatrix& result);

/// Writes a grid as the scale and zero point at `scale_index`, and reads it back. A codebook's grid borrows the matrix.
void set_grid(QuantizedMatrix& matrix, int64_t scale_index, const Grid& grid);
Grid get_grid(const QuantizedMatrix& matrix, int64_t scale_index);
/// How the matrix stores the scale of a grid.
ScaleRounding stored_scales(const QuantizedMatrix& matrix);

}  // namespace llmc
