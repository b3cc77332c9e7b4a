#include "formats/activation_scheme.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace llmc {
namespace {

float widest(float low, float high) { return std::max(std::abs(low), std::abs(high)); }
constexpr float largest_e4m3 = 448;

float steps(const ActivationScheme& scheme) { return static_cast<float>((1 << scheme.bits) - 1); }

float linear_scale(const ActivationScheme& scheme, float low, float high) { return (std::max(high, 0.0f) - std::min(low, 0.0f)) / steps(scheme); }

int linear_zero_point(const ActivationScheme& scheme, float low, float scale) {
  const auto lowest = static_cast<float>(scheme.lowest_code());
  const float zero = lowest - std::min(low, 0.0f) / scale;
  return std::isfinite(zero) ? static_cast<int>(std::nearbyint(std::clamp(zero, lowest, static_cast<float>(scheme.highest_code())))) : 0;
}

}  // namespace

std::string_view to_string(InputRange range) { return range == InputRange::per_token ? "dynamic" : "static"; }

std::string to_string(const ActivationScheme& scheme) {
  return fmt::format("A{}-{}{}", scheme.bits, to_string(scheme.range), scheme.is_float ? "-float" : scheme.mapping == Mapping::linear ? "-linear" : "");
}

void check_activation_scheme(const ActivationScheme& scheme) {
  if (scheme.bits != 4 && scheme.bits != 8) throw Error(ErrorKind::usage, fmt::format("activation bits: expected 4 or 8, found {}", scheme.bits));
  if (scheme.is_float && (scheme.bits != 8 || scheme.mapping != Mapping::symmetric)) throw Error(ErrorKind::usage, fmt::format("activation floats: expected 8 bits, symmetric, found {}, {}", scheme.bits, to_string(scheme.mapping)));
}

InputGrid make_dynamic_grid(const ActivationScheme& scheme, float low, float high) {
  InputGrid grid;
  grid.scale = scheme.mapping == Mapping::symmetric ? widest(low, high) / (scheme.is_float ? largest_e4m3 : steps(scheme) / 2) : linear_scale(scheme, low, high);
  if (grid.scale == 0) grid.scale = std::numeric_limits<float>::epsilon();
  if (scheme.mapping == Mapping::linear) grid.zero_point = linear_zero_point(scheme, low, grid.scale);
  return grid;
}

InputGrid make_static_grid(const ActivationScheme& scheme, float low, float high, DType scale_dtype, const std::string& where) {
  if (!(std::isfinite(low) && std::isfinite(high) && low <= high)) throw Error(ErrorKind::input, fmt::format("{}: expected a finite range of inputs, found {} to {}", where, low, high));
  InputGrid grid;
  const float exact = scheme.mapping == Mapping::symmetric ? widest(low, high) / (scheme.is_float ? largest_e4m3 : static_cast<float>(scheme.highest_code())) : linear_scale(scheme, low, high);
  grid.scale = exact == 0 ? 1.0f : round_to(scale_dtype, exact);
  if (!(std::isfinite(grid.scale) && grid.scale > 0))
    throw Error(ErrorKind::input, fmt::format("{}: inputs from {} to {} give a scale of {} in {}; expected a positive finite one", where, low, high, grid.scale, get_info(scale_dtype).name));
  if (scheme.mapping == Mapping::linear) grid.zero_point = linear_zero_point(scheme, low, grid.scale);
  return grid;
}

InputGrid make_stored_grid(const ActivationScheme& scheme, double scale, int64_t zero_point) {
  const auto narrow = static_cast<float>(scale);
  if (!(std::isfinite(narrow) && narrow > 0)) throw Error(ErrorKind::input, fmt::format("scale of the input: expected a positive finite number, found {}", scale));
  const bool is_symmetric = scheme.mapping == Mapping::symmetric;
  if (is_symmetric ? zero_point != 0 : zero_point < scheme.lowest_code() || zero_point > scheme.highest_code())
    throw Error(ErrorKind::input, fmt::format("zero point of the input: expected {}, found {}", is_symmetric ? "0" : fmt::format("{} to {}", scheme.lowest_code(), scheme.highest_code()), zero_point));
  return {.scale = narrow, .zero_point = static_cast<int>(zero_point)};
}

int quantize_value(const ActivationScheme& scheme, const InputGrid& grid, float x) {
  const float at = x / grid.scale + static_cast<float>(grid.zero_point);
  return static_cast<int>(std::nearbyint(std::clamp(at, static_cast<float>(scheme.lowest_code()), static_cast<float>(scheme.highest_code()))));
}

}  // namespace llmc
