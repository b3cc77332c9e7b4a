// Owns activation schemes: how the input of a linear layer is rounded to few bits while it runs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/dtype.h"
#include "formats/mapping.h"

namespace llmc {

enum class InputRange {
  per_token,   ///< "dynamic": the range of each row, found while it runs
  calibrated,  ///< "static": one range for every row, found beforehand
};
std::string_view to_string(InputRange range);

struct ActivationScheme {
  int bits = 8;
  Mapping mapping = Mapping::symmetric;
  InputRange range = InputRange::per_token;
  bool is_float = false;  ///< to E4M3 instead of integers: 8 bits, symmetric

  int lowest_code() const { return -(1 << (bits - 1)); }
  int highest_code() const { return (1 << (bits - 1)) - 1; }
  bool operator==(const ActivationScheme&) const = default;
};

/// "A8-dynamic", "A8-static-linear", "A8-dynamic-float": what follows the weight's part in a scheme's name.
std::string to_string(const ActivationScheme& scheme);
/// Throws Error(usage) when bits are not 4 or 8, or floats not symmetric in 8.
void check_activation_scheme(const ActivationScheme& scheme);

/// The grid of one range: x ≈ (q − zero_point) · scale.
struct InputGrid {
  float scale = 1;
  int zero_point = 0;  ///< 0 for symmetric

  bool operator==(const InputGrid&) const = default;
};

/// What a layer needs to round its input.
struct InputQuantization {
  ActivationScheme scheme;
  InputGrid grid;  ///< for InputRange::calibrated
};

/// The grid of a token whose values lie between `low` and `high`, in f32 as compressed-tensors computes it:
///   symmetric: s = max(|low|, |high|) / ((2^b − 1) / 2), so the largest value is clipped by half a step
///   floats:    s = max(|low|, |high|) / 448, which E4M3 ends with
///   linear:    s = (high − low) / (2^b − 1) after the range was widened to hold 0; z = round(clamp(−2^(b−1) − low / s))
/// A scale of 0 becomes 2⁻²³: there is nothing but zeros (or nearly). NaN or infinity give a scale that is not finite.
InputGrid make_dynamic_grid(const ActivationScheme& scheme, float low, float high);

/// The grid of an observed range, its scale representable in `scale_dtype`. Symmetric with s = max / (2^(b−1) − 1), as for
/// weights; linear and floats as above. Throws Error(input) naming `where` unless low ≤ high and both are finite.
InputGrid make_static_grid(const ActivationScheme& scheme, float low, float high, DType scale_dtype, const std::string& where);

/// A grid as a file has it. Throws Error(input) unless the scale is finite and positive and the zero point is a code (0 for
/// symmetric).
InputGrid make_stored_grid(const ActivationScheme& scheme, double scale, int64_t zero_point);

/// The code of one value on a grid of integers: round(clamp(x / s + z)), ties to even, all in f32. NaN has none: x must be finite.
int quantize_value(const ActivationScheme& scheme, const InputGrid& grid, float x);

}  // namespace llmc
