// Owns the row-wise work around integer products: inputs rounded to codes, integer sums scaled to floats.
#pragma once

#include <cstdint>
#include <span>

#include "formats/activation_scheme.h"

namespace llmc {

/// Codes are handed to products as q + 128, unsigned: what the processors' instructions multiply with signed weights.
inline constexpr int code_offset = 128;

/// Rounds one row of inputs to codes and returns the grid it took: the scheme's own, or that of the row's range. A row that
/// holds NaN or infinity gets the scale NaN and codes of 0, so that what is computed from it is NaN.
InputGrid encode_input(const InputQuantization& input, std::span<const float> x, std::span<uint8_t> codes);

/// out = (q − z) · s: the values that the codes of a row mean. `out` may be `x`.
void round_input(const InputQuantization& input, std::span<const float> x, std::span<float> out);

/// Σ codes, as stored (q + 128).
int64_t sum_codes(std::span<const uint8_t> codes);

/// One row of integer sums and what turns them into floats. All spans have one element per output.
struct IntegerSums {
  std::span<const int32_t> sums;            ///< Σ (q_x + 128) · q_w
  std::span<const int32_t> weight_sums;     ///< Σ q_w
  std::span<const int32_t> weight_zeros;    ///< z_w, or empty: all 0
  std::span<const float> weight_scales;
  InputGrid grid;                           ///< of the row
  int32_t input_sum = 0;                    ///< Σ (q_x − z_x)
};

/// y += Σ (q_x − z_x) · (q_w − z_w) · (s_x · s_w). The integer part is exact: it is
/// sums − (128 + z_x) · weight_sums − z_w · input_sum, modulo 2³² on the way.
void add_scaled_sums(const IntegerSums& row, std::span<float> y);

// The same in plain scalar code, for tests. The same bits.
InputGrid encode_input_reference(const InputQuantization& input, std::span<const float> x, std::span<uint8_t> codes);
void add_scaled_sums_reference(const IntegerSums& row, std::span<float> y);

}  // namespace llmc
