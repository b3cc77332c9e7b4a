// Owns rounding to nearest of rows whose spans each have the grid of their own smallest and largest value, in vector code: three passes over a row
// while it is near. grid.h has the plain reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace llmc {

/// A row in bf16, little endian, at any address.
using Bf16Row = std::span<const std::byte>;

/// Smallest and largest value of each span of `width` values along a row that holds a whole number of them.
void find_ranges(std::span<const float> row, size_t width, std::span<float> lows, std::span<float> highs);
void find_ranges(Bf16Row row, size_t width, std::span<float> lows, std::span<float> highs);

/// Scales of spans before they are rounded to the type that they are stored in: the width of a range over `steps`, 1 where that is 0. The width is
/// max(|low|, |high|), for linear max(high, 0) − min(low, 0).
void find_scales(std::span<const float> lows, std::span<const float> highs, bool is_linear, float steps, std::span<float> scales);

/// Zero points of linear spans: round(lowest − min(low, 0) / scale), ties to even, from lowest to highest.
void find_zeros(std::span<const float> lows, std::span<const float> scales, float lowest, float highest, std::span<float> zeros);

/// The inverse of each scale, NaN where that is no normal number. Answers whether every scale is finite and above 0.
bool invert_scales(std::span<const float> scales, std::span<float> inverses);

/// Of each span along a row.
struct SpanGrids {
  size_t width;  ///< values in a span
  std::span<const float> scales, inverses, zeros;
  float lowest, highest;  ///< code
};

/// Grid::even_code of every value, bit for bit, where |value / scale| is at most 2^15.
void code_spans(std::span<const float> row, const SpanGrids& grids, std::span<int8_t> codes);
void code_spans(Bf16Row row, const SpanGrids& grids, std::span<int8_t> codes);

}  // namespace llmc
