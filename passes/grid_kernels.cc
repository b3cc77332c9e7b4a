#include "passes/grid_kernels.h"

#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/grid_kernels.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "model/kernels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

constexpr float beyond = 1024;  // further out than any code

void round_evenly(const float* x, size_t count, float scale, float zero, float lowest, float highest, float* rounded) {
  const D d;
  const V s = hn::Set(d, scale), z = hn::Set(d, zero), low = hn::Set(d, lowest), high = hn::Set(d, highest), least = hn::Set(d, -beyond), most = hn::Set(d, beyond);
  transform(x, count, rounded, [&](V v) {
    const V place = hn::Min(hn::Max(hn::Div(v, s), least), most);
    const V code = hn::Min(hn::Max(hn::Add(hn::Round(place), z), low), high);
    return hn::Mul(hn::Sub(code, z), s);
  });
}

void code_evenly(const float* x, size_t count, float scale, float zero, float lowest, float highest, int8_t* codes) {
  const D d;
  const hn::Rebind<int32_t, D> i32;
  const hn::Rebind<int8_t, D> i8;
  const V s = hn::Set(d, scale), z = hn::Set(d, zero), low = hn::Set(d, lowest), high = hn::Set(d, highest), least = hn::Set(d, -beyond), most = hn::Set(d, beyond);
  const bool has_inverse = std::isnormal(1 / scale);
  const V inverse = hn::Set(d, 1 / scale), nearly_half = hn::Set(d, has_inverse ? 0.4998f : -1.0f);
  const auto clip = [&](V place) HWY_ATTR { return hn::Min(hn::Max(place, least), most); };
  const auto code = [&](V v) HWY_ATTR {
    // x · (1 / scale) is within 2^-22.4 of itself of x / scale, for a place up to 1024 within 2^-12.4: only next to a half may it round elsewhere.
    const V place = clip(hn::Mul(v, inverse));
    V whole = hn::Round(place);
    if (!hn::AllTrue(d, hn::Le(hn::Abs(hn::Sub(place, whole)), nearly_half))) whole = hn::Round(clip(hn::Div(v, s)));
    return hn::DemoteTo(i8, hn::ConvertTo(i32, hn::Min(hn::Max(hn::Add(whole, z), low), high)));
  };
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(code(hn::LoadU(d, x + i)), i8, codes + i);
  for (; i < count; ++i) codes[i] = hn::GetLane(code(hn::Set(d, x[i])));
}

void widen_range(const float* x, size_t count, float* low, float* high) {
  const D d;
  V least = hn::Set(d, *low), most = hn::Set(d, *high), even_least = least, even_most = most;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const V even = hn::LoadU(d, x + i), odd = hn::LoadU(d, x + i + lanes);
    even_least = hn::Min(even, even_least);
    even_most = hn::Max(even, even_most);
    least = hn::Min(odd, least);
    most = hn::Max(odd, most);
  }
  for (; i + lanes <= count; i += lanes) {
    const V v = hn::LoadU(d, x + i);
    least = hn::Min(v, least);
    most = hn::Max(v, most);
  }
  *low = hn::GetLane(hn::MinOfLanes(d, hn::Min(even_least, least)));
  *high = hn::GetLane(hn::MaxOfLanes(d, hn::Max(even_most, most)));
  for (; i < count; ++i) *low = std::min(*low, x[i]), *high = std::max(*high, x[i]);
}

/// One division serves both grids: round(x / −s) = −round(x / s).
template <bool both>
void add_squared_errors(const float* x, const float* importance, size_t count, float scale, float zero, float lowest, float highest, float* sums, float* mirrored) {
  const hn::CappedTag<float, 16> d;
  using V16 = hn::Vec<decltype(d)>;
  const V16 s = hn::Set(d, scale), z = hn::Set(d, zero), low = hn::Set(d, lowest), high = hn::Set(d, highest), least = hn::Set(d, -beyond), most = hn::Set(d, beyond);
  for (size_t lane = 0; lane < 16; lane += hn::Lanes(d)) {
    V16 sum = hn::LoadU(d, sums + lane), other = sum;
    if constexpr (both) other = hn::LoadU(d, mirrored + lane);
    for (size_t i = lane; i < count; i += 16) {
      const V16 v = hn::LoadU(d, x + i), place = hn::Round(hn::Min(hn::Max(hn::Div(v, s), least), most));
      const auto add = [&](V16 to, V16 code, V16 step) {
        const V16 error = hn::Sub(v, hn::Mul(hn::Sub(hn::Min(hn::Max(hn::Add(code, z), low), high), z), step));
        return hn::Add(to, hn::Mul(importance ? hn::Mul(hn::LoadU(d, importance + i), error) : error, error));
      };
      sum = add(sum, place, s);
      if constexpr (both) other = add(other, hn::Neg(place), hn::Neg(s));
    }
    hn::StoreU(sum, d, sums + lane);
    if constexpr (both) hn::StoreU(other, d, mirrored + lane);
  }
}

void add_errors_of_both(const float* x, const float* importance, size_t count, float scale, float zero, float lowest, float highest, float* sums, float* mirrored) { add_squared_errors<true>(x, importance, count, scale, zero, lowest, highest, sums, mirrored); }
void add_errors_of_one(const float* x, const float* importance, size_t count, float scale, float zero, float lowest, float highest, float* sums) { add_squared_errors<false>(x, importance, count, scale, zero, lowest, highest, sums, nullptr); }

void round_by_thresholds(const float* x, size_t count, float scale, const float* thresholds, const float* values, size_t steps, float* rounded) {
  const D d;
  const V s = hn::Set(d, scale);
  transform(x, count, rounded, [&](V v) {
    const V place = hn::Div(v, s);
    V nearest = hn::Set(d, values[0]);
    for (size_t i = 0; i < steps; ++i) nearest = hn::IfThenElse(hn::Gt(place, hn::Set(d, thresholds[i])), hn::Set(d, values[i + 1]), nearest);
    return nearest;
  });
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <cassert>

namespace llmc {
namespace {

HWY_EXPORT(round_evenly);
HWY_EXPORT(code_evenly);
HWY_EXPORT(widen_range);
HWY_EXPORT(add_errors_of_both);
HWY_EXPORT(add_errors_of_one);
HWY_EXPORT(round_by_thresholds);

}  // namespace

void code_evenly(std::span<const float> x, float scale, float zero, float lowest, float highest, std::span<int8_t> codes) {
  assert(codes.size() == x.size());
  HWY_DYNAMIC_DISPATCH(code_evenly)(x.data(), x.size(), scale, zero, lowest, highest, codes.data());
}

void widen_range(std::span<const float> x, float& low, float& high) { HWY_DYNAMIC_DISPATCH(widen_range)(x.data(), x.size(), &low, &high); }

void round_evenly(std::span<const float> x, float scale, float zero, float lowest, float highest, std::span<float> rounded) {
  assert(x.size() == rounded.size());
  HWY_DYNAMIC_DISPATCH(round_evenly)(x.data(), x.size(), scale, zero, lowest, highest, rounded.data());
}

void add_squared_errors(std::span<const float> x, const float* importance, float scale, float zero, float lowest, float highest, PartialSums& sums, PartialSums* mirrored) {
  assert(x.size() % sums.size() == 0 && (!mirrored || zero == 0));
  if (mirrored) HWY_DYNAMIC_DISPATCH(add_errors_of_both)(x.data(), importance, x.size(), scale, zero, lowest, highest, sums.data(), mirrored->data());
  else HWY_DYNAMIC_DISPATCH(add_errors_of_one)(x.data(), importance, x.size(), scale, zero, lowest, highest, sums.data());
}

void round_by_thresholds(std::span<const float> x, float scale, std::span<const float> thresholds, std::span<const float> values, std::span<float> rounded) {
  assert(x.size() == rounded.size() && values.size() == thresholds.size() + 1);
  HWY_DYNAMIC_DISPATCH(round_by_thresholds)(x.data(), x.size(), scale, thresholds.data(), values.data(), thresholds.size(), rounded.data());
}

}  // namespace llmc
#endif
