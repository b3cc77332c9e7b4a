#include "formats/levels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace llmc {
namespace {

constexpr FloatFormat e4m3{.mantissa_bits = 3, .bias = 7, .largest = 0x7e};
constexpr FloatFormat e5m2{.mantissa_bits = 2, .bias = 15, .largest = 0x7b};
constexpr FloatFormat e2m1{.mantissa_bits = 1, .bias = 1, .largest = 0x7};

// Dettmers 2023 (QLoRA), appendix E.
constexpr std::array<float, 16> nf4 = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                                       0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

template <const FloatFormat& format>
std::span<const float> float_levels() {
  static const auto levels = [] {
    std::array<float, 2 * format.largest + 1> values;
    for (int code = -format.largest; code <= format.largest; ++code) values[static_cast<size_t>(code + format.largest)] = format.value(code);
    return values;
  }();
  return levels;
}

}  // namespace

float FloatFormat::value(int code) const {
  const int magnitude = std::abs(code), exponent = magnitude >> mantissa_bits, mantissa = magnitude & ((1 << mantissa_bits) - 1);
  const int significand = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);
  const float value = std::ldexp(static_cast<float>(significand), std::max(exponent, 1) - bias - mantissa_bits);
  return code < 0 ? -value : value;
}

int FloatFormat::code(float x) const {
  const uint32_t bits = std::bit_cast<uint32_t>(x) & 0x7fffffffu;
  const auto smallest_normal = static_cast<uint32_t>(128 - bias) << 23;
  int code;
  if (bits < smallest_normal) {
    code = static_cast<int>(std::nearbyintf(std::ldexp(std::bit_cast<float>(bits), bias - 1 + mantissa_bits)));
  } else {
    const int dropped = 23 - mantissa_bits;
    const uint32_t rounded = (bits + (1u << (dropped - 1)) - 1 + ((bits >> dropped) & 1u)) >> dropped;
    code = static_cast<int>(std::min(rounded - (static_cast<uint32_t>(127 - bias) << mantissa_bits), static_cast<uint32_t>(largest)));
  }
  return std::signbit(x) ? -code : code;
}

const FloatFormat* find_float_format(GridKind kind) {
  switch (kind) {
    case GridKind::fp8_e4m3: return &e4m3;
    case GridKind::fp8_e5m2: return &e5m2;
    case GridKind::fp4_e2m1: return &e2m1;
    default: return nullptr;
  }
}

std::span<const float> fixed_levels(GridKind kind) {
  switch (kind) {
    case GridKind::fp8_e4m3: return float_levels<e4m3>();
    case GridKind::fp8_e5m2: return float_levels<e5m2>();
    case GridKind::fp4_e2m1: return float_levels<e2m1>();
    case GridKind::nf4: return nf4;
    default: return {};
  }
}

}  // namespace llmc
