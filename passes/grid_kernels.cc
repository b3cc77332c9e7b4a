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

void round_evenly(const float* x, size_t count, float scale, float zero, float lowest, float highest, float* rounded) {
  const D d;
  constexpr float beyond = 1024;  // further out than any code
  const V s = hn::Set(d, scale), z = hn::Set(d, zero), low = hn::Set(d, lowest), high = hn::Set(d, highest), least = hn::Set(d, -beyond), most = hn::Set(d, beyond);
  transform(x, count, rounded, [&](V v) {
    const V place = hn::Min(hn::Max(hn::Div(v, s), least), most);
    const V code = hn::Min(hn::Max(hn::Add(hn::Round(place), z), low), high);
    return hn::Mul(hn::Sub(code, z), s);
  });
}

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
HWY_EXPORT(round_by_thresholds);

}  // namespace

void round_evenly(std::span<const float> x, float scale, float zero, float lowest, float highest, std::span<float> rounded) {
  assert(x.size() == rounded.size());
  HWY_DYNAMIC_DISPATCH(round_evenly)(x.data(), x.size(), scale, zero, lowest, highest, rounded.data());
}

void round_by_thresholds(std::span<const float> x, float scale, std::span<const float> thresholds, std::span<const float> values, std::span<float> rounded) {
  assert(x.size() == rounded.size() && values.size() == thresholds.size() + 1);
  HWY_DYNAMIC_DISPATCH(round_by_thresholds)(x.data(), x.size(), scale, thresholds.data(), values.data(), thresholds.size(), rounded.data());
}

}  // namespace llmc
#endif
