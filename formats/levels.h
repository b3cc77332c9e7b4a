// Owns the tables of levels: the values that codes mean, before a scale multiplies them, on grids that are not evenly spaced.
#pragma once

#include <cstdint>
#include <span>

namespace llmc {

/// integer: every integer of the code's bits.  codebook: centroids that each span brings along.  The others are fixed tables.
enum class GridKind {
  integer,
  fp8_e4m3,  ///< OCP 8-bit float, largest 448; codes −126 to 126
  fp8_e5m2,  ///< OCP 8-bit float, largest 57344; codes −123 to 123
  fp4_e2m1,  ///< OCP 4-bit float: 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives; codes −7 to 7
  nf4,       ///< 16 quantiles of the normal distribution in [−1, 1] (Dettmers 2023, appendix E); codes −8 to 7
  codebook,
};

/// A small float: `code` is its magnitude bits, negative for negative values, so codes ascend with the values and 0 is 0.
struct FloatFormat {
  int mantissa_bits = 0;
  int bias = 0;
  int largest = 0;  ///< code of the largest finite value

  float value(int code) const;
  /// The code nearest to x, ties to even, clipped to ±largest.
  int code(float x) const;
};
/// nullptr unless the kind is one of the floats.
const FloatFormat* find_float_format(GridKind kind);

/// The levels of a fixed table, ascending. Empty for integer and codebook.
std::span<const float> fixed_levels(GridKind kind);

}  // namespace llmc
