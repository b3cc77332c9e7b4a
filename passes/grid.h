// Owns grids: the values that the weights of one span (a group, a channel, a tensor) round to, and how a grid's range is chosen.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/tensor.h"
#include "formats/quantized_matrix.h"

namespace llmc {

/// How the range of a span of weights is chosen.
enum class RangeRule {
  minmax,      ///< the smallest range that holds every weight
  percentile,  ///< leaves out the share of weights past a percentile; they are clipped
  mse,         ///< the shrunk min-max range with the least squared error, searched over 100 steps
  hqq,         ///< scale and zero point fitted by half-quadratic splitting, judged by Σ|error|^2.5
};
std::string_view to_string(RangeRule rule);

struct RangeOptions {
  RangeRule rule = RangeRule::minmax;
  double percentile = 99.9;  ///< for RangeRule::percentile: of |x| if symmetric, of both tails if linear

  bool operator==(const RangeOptions&) const = default;
};

/// Scale and zero point of one span, as floats that hold integers: all that a rounding method knows of a scheme. A span of
/// zeros has scale 1, so that every code decodes.
struct Grid {
  float scale = 1;
  float zero = 0;
  float lowest = 0;   ///< code
  float highest = 0;  ///< code

  /// Nearest integer, ties to even, for |x| < 2^22: adding 1.5 · 2^23 leaves no fraction bits. Unlike std::nearbyint it
  /// compiles to vector code everywhere.
  static float round_even(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

  /// The code nearest to x, clipped to the grid.
  float code(float x) const {
    constexpr float beyond = 1024;  // further out than any code; keeps round_even in its range
    return std::clamp(round_even(std::clamp(x / scale, -beyond, beyond)) + zero, lowest, highest);
  }
  float value(float code) const { return (code - zero) * scale; }
};

/// The grid of a span of `weights` [rows, cols], its scale rounded to `scale_dtype` so that nothing is lost in storing it.
///   symmetric: s = max|x| / (2^(b−1) − 1)
///   linear:    s = (x_max − x_min) / (2^b − 1), the range widened to hold 0 and moved so that 0 has an integer code
/// `importance` [cols] weighs the errors that RangeRule::mse and hqq compare; empty: all alike. Throws Error(input) naming
/// `where` and `row` when the scale is not finite or is too small for its dtype.
Grid choose_grid(ConstMatrixView weights, std::span<const float> importance, const Scheme& scheme, DType scale_dtype, const RangeOptions& options, const std::string& where, int64_t row);

/// Chooses the grid of every span of `result`, whose scheme, sizes and scale_dtype are set, from `weights`.
void choose_grids(ConstMatrixView weights, std::span<const float> importance, const RangeOptions& options, const std::string& where, QuantizedMatrix& result);

/// Writes a grid as the scale and zero point at `scale_index`, and reads it back.
void set_grid(QuantizedMatrix& matrix, int64_t scale_index, const Grid& grid);
Grid get_grid(const QuantizedMatrix& matrix, int64_t scale_index);

}  // namespace llmc
