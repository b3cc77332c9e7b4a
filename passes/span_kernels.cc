#include "passes/span_kernels.h"

#include <limits>

#include "passes/grid_kernels.h"

// Vectors of a size that is known only at run time cannot be halved down to four floats.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/span_kernels.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "model/kernels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

using U32 = hn::RebindToUnsigned<D>;

/// Rows are read two vectors at a time: the values at even places, and those after them.
class FloatRow {
 public:
  explicit FloatRow(const float* values) : values_(values) {}
  HWY_INLINE void load(size_t at, V& even, V& odd) const { hn::LoadInterleaved2(D(), values_ + at, even, odd); }
  void prefetch(size_t) const {}  // it was made a moment ago
  void copy(size_t at, size_t count, float* out) const { std::memcpy(out, values_ + at, count * sizeof(float)); }

 private:
  const float* values_;
};

/// A bf16 is the upper half of an f32.
class HalfRow {
 public:
  explicit HalfRow(const uint8_t* bytes) : bytes_(bytes) {}
  HWY_INLINE void load(size_t at, V& even, V& odd) const {
#if HWY_TARGET == HWY_SCALAR
    uint32_t pair;
    std::memcpy(&pair, bytes_ + 2 * at, sizeof pair);
    const auto pairs = hn::Set(U32(), pair);
#else
    const auto pairs = hn::BitCast(U32(), hn::LoadU(hn::Repartition<uint8_t, D>(), bytes_ + 2 * at));
#endif
    even = hn::BitCast(D(), hn::ShiftLeft<16>(pairs));
    odd = hn::BitCast(D(), hn::And(pairs, hn::Set(U32(), 0xffff0000u)));
  }
  /// May lie beyond the row: nothing is read.
  HWY_INLINE void prefetch(size_t at) const { hwy::Prefetch(reinterpret_cast<const uint8_t*>(reinterpret_cast<uintptr_t>(bytes_) + 2 * at)); }
  void copy(size_t at, size_t count, float* out) const {
    for (size_t i = 0; i < count; ++i) {
      uint16_t half;
      std::memcpy(&half, bytes_ + 2 * (at + i), sizeof half);
      const uint32_t bits = uint32_t{half} << 16;
      std::memcpy(out + i, &bits, sizeof bits);
    }
  }

 private:
  const uint8_t* bytes_;
};

/// Lane by lane over part of a span, from its start on.
template <typename Row>
HWY_INLINE void find_lane_ranges(Row row, size_t at, size_t end, V& least, V& most) {
  const D d;
  V odd_least = hn::Set(d, INFINITY), odd_most = hn::Set(d, -INFINITY), even, odd;
  least = odd_least, most = odd_most;
  for (const size_t both = 2 * hn::Lanes(d); at + both <= end; at += both) {
    row.load(at, even, odd);
    least = hn::Min(even, least), most = hn::Max(even, most);
    odd_least = hn::Min(odd, odd_least), odd_most = hn::Max(odd, odd_most);
  }
  least = hn::Min(least, odd_least), most = hn::Max(most, odd_most);
}

#if HWY_TARGET != HWY_SCALAR
/// Joins the halves of a vector until it has four lanes.
template <typename Tag, typename Join>
HWY_INLINE void halve(Tag d, hn::Vec<Tag> v, Join join, float* out) {
  if constexpr (hn::MaxLanes(Tag()) > 4) {
    const hn::Half<Tag> half;
    halve(half, join(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), join, out);
  } else {
    hn::StoreU(v, d, out);
  }
}

/// out[i] = the lanes of vector i joined by `join`, for four vectors: by pairs of lanes, by lanes, then by halves down to four.
template <typename Join>
HWY_INLINE void join_lanes(const V& a, const V& b, const V& c, const V& e, Join join, float* out) {
  const D d;
  const hn::Repartition<double, D> f64;
  const auto pairs_of = [&](V x, V y) HWY_ATTR { return hn::BitCast(f64, join(hn::InterleaveLower(d, x, y), hn::InterleaveUpper(d, x, y))); };
  const auto ab = pairs_of(a, b), ce = pairs_of(c, e);
  halve(d, join(hn::BitCast(d, hn::InterleaveLower(f64, ab, ce)), hn::BitCast(d, hn::InterleaveUpper(f64, ab, ce))), join, out);
}
#endif

template <typename Row>
void find_ranges(Row row, size_t count, size_t width, float* lows, float* highs) {
  const D d;
  size_t span = 0;
#if HWY_TARGET != HWY_SCALAR
  if (width % (2 * hn::Lanes(d)) == 0)
    for (; span + 4 <= count; span += 4) {
      V least[4], most[4];
      for (size_t i = 0; i < 4; ++i) find_lane_ranges(row, (span + i) * width, (span + i + 1) * width, least[i], most[i]);
      join_lanes(least[0], least[1], least[2], least[3], [](auto x, auto y) HWY_ATTR { return hn::Min(x, y); }, lows + span);
      join_lanes(most[0], most[1], most[2], most[3], [](auto x, auto y) HWY_ATTR { return hn::Max(x, y); }, highs + span);
    }
#endif
  for (; span < count; ++span) {
    const size_t begin = span * width, end = begin + width;
    V least, most;
    find_lane_ranges(row, begin, end, least, most);
    float& low = lows[span] = hn::GetLane(hn::MinOfLanes(d, least));
    float& high = highs[span] = hn::GetLane(hn::MaxOfLanes(d, most));
    for (size_t at = end - width % (2 * hn::Lanes(d)); at < end; ++at) {
      float value;
      row.copy(at, 1, &value);
      low = std::min(low, value), high = std::max(high, value);
    }
  }
}
void find_float_ranges(const float* row, size_t count, size_t width, float* lows, float* highs) { find_ranges(FloatRow(row), count, width, lows, highs); }
void find_bf16_ranges(const uint8_t* row, size_t count, size_t width, float* lows, float* highs) { find_ranges(HalfRow(row), count, width, lows, highs); }

void find_scales(const float* lows, const float* highs, size_t count, bool is_linear, float steps, float* scales) {
  const D d;
  const V zero = hn::Zero(d), divisor = hn::Set(d, steps);
  const auto scale = [&](V width) HWY_ATTR { return hn::IfThenElse(hn::Gt(width, zero), hn::Div(width, divisor), hn::Set(d, 1.0f)); };
  if (is_linear) transform(lows, highs, count, scales, [&](V low, V high) HWY_ATTR { return scale(hn::Sub(hn::Max(high, zero), hn::Min(low, zero))); });
  else transform(lows, highs, count, scales, [&](V low, V high) HWY_ATTR { return scale(hn::Max(hn::Abs(low), hn::Abs(high))); });
}

void find_zeros(const float* lows, const float* scales, size_t count, float lowest, float highest, float* zeros) {
  const D d;
  const V least = hn::Set(d, lowest), most = hn::Set(d, highest);
  transform(lows, scales, count, zeros, [&](V low, V scale) HWY_ATTR { return hn::Min(hn::Max(hn::Round(hn::Sub(least, hn::Div(hn::Min(low, hn::Zero(d)), scale))), least), most); });
}

bool invert_scales(const float* scales, size_t count, float* inverses) {
  const D d;
  const V most = hn::Set(d, std::numeric_limits<float>::max()), smallest_normal = hn::Set(d, 0x1p-126f);
  auto is_usable = hn::FirstN(d, hn::Lanes(d));
  const auto invert = [&](V scale) HWY_ATTR {
    is_usable = hn::And(is_usable, hn::And(hn::Gt(scale, hn::Zero(d)), hn::Le(scale, most)));
    const V inverse = hn::Div(hn::Set(d, 1.0f), scale);
    return hn::IfThenElse(hn::And(hn::Ge(inverse, smallest_normal), hn::Le(inverse, most)), inverse, hn::Set(d, NAN));
  };
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(invert(hn::LoadU(d, scales + i)), d, inverses + i);
  for (; i < count; ++i) inverses[i] = hn::GetLane(invert(hn::Set(d, scales[i])));
  return hn::AllTrue(d, is_usable);
}

/// Clips the integers in the lower halves, and puts them into their places.
HWY_INLINE void store_codes(V even, V odd, int16_t lowest, int16_t highest, int8_t* codes) {
  const U32 u32;
  const auto pairs = hn::Or(hn::And(hn::BitCast(u32, even), hn::Set(u32, 0xffffu)), hn::ShiftLeft<16>(hn::BitCast(u32, odd)));
#if HWY_TARGET == HWY_SCALAR
  const uint32_t pair = hn::GetLane(pairs);
  for (int i = 0; i < 2; ++i) codes[i] = static_cast<int8_t>(std::clamp(static_cast<int16_t>(pair >> (16 * i)), lowest, highest));
#else
  const hn::Repartition<int16_t, D> i16;
  const hn::Rebind<int8_t, decltype(i16)> i8;
  hn::StoreU(hn::DemoteTo(i8, hn::Min(hn::Max(hn::BitCast(i16, pairs), hn::Set(i16, lowest)), hn::Set(i16, highest))), i8, codes);
#endif
}

/// Adding 1.5 · 2^23 leaves no fraction bits and the integer in the lower half: with the zero point added too, that is the code. x · (1 / scale) is within
/// 2^-22.4 of itself of x / scale, for a place up to 512 within 2^-13.4: only next to a half may it round elsewhere, and beyond it is clipped.
template <typename Row>
void code_spans(Row row, size_t count, size_t width, const float* scales, const float* inverses, const float* zeros, float lowest, float highest, int8_t* codes) {
  constexpr float beyond = 1024;
  const D d;
  const hn::RebindToSigned<D> i32;
  const auto nearly_half = hn::BitCast(i32, hn::Set(d, 0.4998f));
  const auto low = static_cast<int16_t>(lowest), high = static_cast<int16_t>(highest);
  const size_t both = 2 * hn::Lanes(d), whole = width / both * both, next_row = count * width;
  V even, odd;
  for (size_t span = 0; span < count; ++span) {
    const V inverse = hn::Set(d, inverses[span]), shift = hn::Set(d, 0x1.8p23f + zeros[span]);
    const size_t begin = span * width;
    for (size_t at = begin; at < begin + whole; at += both) {
      row.load(at, even, odd);
      row.prefetch(at + next_row);
      V even_code = hn::MulAdd(even, inverse, shift), odd_code = hn::MulAdd(odd, inverse, shift);
      const V even_error = hn::MulSub(even, inverse, hn::Sub(even_code, shift)), odd_error = hn::MulSub(odd, inverse, hn::Sub(odd_code, shift));
      // As integers, NaN is beyond any number.
      const auto error = hn::Max(hn::BitCast(i32, hn::Abs(even_error)), hn::BitCast(i32, hn::Abs(odd_error)));
      if (HWY_UNLIKELY(!hn::AllTrue(i32, hn::Lt(error, nearly_half)))) {
        const V scale = hn::Set(d, scales[span]);
        const auto divide = [&](V v) HWY_ATTR { return hn::Add(hn::Round(hn::Min(hn::Max(hn::Div(v, scale), hn::Set(d, -beyond)), hn::Set(d, beyond))), shift); };
        even_code = divide(even), odd_code = divide(odd);
      }
      store_codes(even_code, odd_code, low, high, codes + at);
    }
    if (whole == width) continue;
    float rest[2 * hn::MaxLanes(d)];
    const size_t left = width - whole;
    row.copy(begin + whole, left, rest);
    llmc::code_evenly({rest, left}, scales[span], zeros[span], lowest, highest, {codes + begin + whole, left});
  }
}
void code_float_spans(const float* row, size_t count, size_t width, const float* scales, const float* inverses, const float* zeros, float lowest, float highest, int8_t* codes) { code_spans(FloatRow(row), count, width, scales, inverses, zeros, lowest, highest, codes); }
void code_bf16_spans(const uint8_t* row, size_t count, size_t width, const float* scales, const float* inverses, const float* zeros, float lowest, float highest, int8_t* codes) { code_spans(HalfRow(row), count, width, scales, inverses, zeros, lowest, highest, codes); }

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <cassert>

namespace llmc {
namespace {

HWY_EXPORT(find_float_ranges);
HWY_EXPORT(find_bf16_ranges);
HWY_EXPORT(find_scales);
HWY_EXPORT(find_zeros);
HWY_EXPORT(invert_scales);
HWY_EXPORT(code_float_spans);
HWY_EXPORT(code_bf16_spans);

const uint8_t* bytes_of(Bf16Row row) { return reinterpret_cast<const uint8_t*>(row.data()); }

}  // namespace

void find_ranges(std::span<const float> row, size_t width, std::span<float> lows, std::span<float> highs) {
  assert(row.size() == lows.size() * width && lows.size() == highs.size());
  HWY_DYNAMIC_DISPATCH(find_float_ranges)(row.data(), lows.size(), width, lows.data(), highs.data());
}

void find_ranges(Bf16Row row, size_t width, std::span<float> lows, std::span<float> highs) {
  assert(row.size() == 2 * lows.size() * width && lows.size() == highs.size());
  HWY_DYNAMIC_DISPATCH(find_bf16_ranges)(bytes_of(row), lows.size(), width, lows.data(), highs.data());
}

void find_scales(std::span<const float> lows, std::span<const float> highs, bool is_linear, float steps, std::span<float> scales) {
  assert(lows.size() == highs.size() && lows.size() == scales.size());
  HWY_DYNAMIC_DISPATCH(find_scales)(lows.data(), highs.data(), scales.size(), is_linear, steps, scales.data());
}

void find_zeros(std::span<const float> lows, std::span<const float> scales, float lowest, float highest, std::span<float> zeros) {
  assert(lows.size() == scales.size() && lows.size() == zeros.size());
  HWY_DYNAMIC_DISPATCH(find_zeros)(lows.data(), scales.data(), zeros.size(), lowest, highest, zeros.data());
}

bool invert_scales(std::span<const float> scales, std::span<float> inverses) {
  assert(scales.size() == inverses.size());
  return HWY_DYNAMIC_DISPATCH(invert_scales)(scales.data(), scales.size(), inverses.data());
}

void code_spans(std::span<const float> row, const SpanGrids& grids, std::span<int8_t> codes) {
  assert(row.size() == grids.scales.size() * grids.width && row.size() == codes.size());
  HWY_DYNAMIC_DISPATCH(code_float_spans)(row.data(), grids.scales.size(), grids.width, grids.scales.data(), grids.inverses.data(), grids.zeros.data(), grids.lowest, grids.highest, codes.data());
}

void code_spans(Bf16Row row, const SpanGrids& grids, std::span<int8_t> codes) {
  assert(row.size() == 2 * grids.scales.size() * grids.width && row.size() == 2 * codes.size());
  HWY_DYNAMIC_DISPATCH(code_bf16_spans)(bytes_of(row), grids.scales.size(), grids.width, grids.scales.data(), grids.inverses.data(), grids.zeros.data(), grids.lowest, grids.highest, codes.data());
}

}  // namespace llmc
#endif
