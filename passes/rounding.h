// Owns round-to-nearest: from a float matrix to codes on the grid of a scheme, with the grid's range chosen by a rule.
#pragma once

#include <cstdint>
#include <string>

#include "core/tensor.h"
#include "formats/quantized_matrix.h"

namespace llmc {

/// How the range of a span of weights (a group, a channel, a tensor) is chosen.
enum class RangeRule {
  minmax,      ///< the smallest range that holds every weight
  percentile,  ///< leaves out the share of weights past a percentile; they are clipped
  mse,         ///< the shrunk min-max range with the least squared error, searched over 100 steps
};
std::string_view to_string(RangeRule rule);

struct RangeOptions {
  RangeRule rule = RangeRule::minmax;
  double percentile = 99.9;  ///< for RangeRule::percentile: of |x| if symmetric, of both tails if linear

  bool operator==(const RangeOptions&) const = default;
};

/// Rounds `weights` [rows, cols] to the grid. Scales are rounded to `scale_dtype` first and codes are chosen on the grid
/// that results, so nothing is lost in storing it.
///   symmetric: s = max|x| / (2^(b−1) − 1), q = round(x / s)
///   linear:    q = round((x − x_min) / (x_max − x_min) · (2^b − 1)), the range widened to hold 0 and moved so that 0 has
///              an integer code, as every integer runtime stores it
/// Throws Error(usage) when the group does not divide the rows, Error(input) naming `where` when a scale is not finite or
/// is too small for its dtype.
QuantizedMatrix round_to_nearest(ConstMatrixView weights, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where);

}  // namespace llmc
