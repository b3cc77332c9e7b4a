#include "model/integer_kernels.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "model/matmul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/integer_kernels.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;

/// Smallest and largest value of the row and 0, as `range`; both NaN when the row holds one or an infinity.
void find_range(const float* x, size_t count, float* range) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  auto low = hn::Zero(d), high = hn::Zero(d), check = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    low = hn::Min(low, v);
    high = hn::Max(high, v);
    check = hn::Add(check, hn::Mul(v, hn::Zero(d)));  // 0, or NaN and NaN ever after
  }
  float lowest = hn::GetLane(hn::MinOfLanes(d, low)), highest = hn::GetLane(hn::MaxOfLanes(d, high)), checked = hn::GetLane(hn::SumOfLanes(d, check));
  for (; i < count; ++i) {
    lowest = std::min(lowest, x[i]);
    highest = std::max(highest, x[i]);
    checked += x[i] * 0.0f;
  }
  range[0] = checked == 0 ? lowest : checked;
  range[1] = checked == 0 ? highest : checked;
}

/// codes = round(clamp(x / scale + zero, lowest, highest)) + 128
void encode(const float* x, size_t count, float scale, float zero, float lowest, float highest, uint8_t* codes) {
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> du8;
  const size_t lanes = hn::Lanes(d);
  const auto s = hn::Set(d, scale), z = hn::Set(d, zero), low = hn::Set(d, lowest), high = hn::Set(d, highest);
  const auto offset = hn::Set(di, code_offset);
  const auto code = [&](auto v) HWY_ATTR {
    const auto at = hn::Min(hn::Max(hn::Add(hn::Div(v, s), z), low), high);
    return hn::Add(hn::NearestInt(at), offset);
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(hn::DemoteTo(du8, code(hn::LoadU(d, x + i))), du8, codes + i);
  for (; i < count; ++i) codes[i] = static_cast<uint8_t>(hn::GetLane(code(hn::Set(d, x[i]))));
}

void add_scaled(const int32_t* sums, const int32_t* weight_sums, const int32_t* weight_zeros, const float* weight_scales, int32_t shift, int32_t input_sum, float input_scale, size_t count, float* y) {
  const D d;
  const hn::RebindToSigned<D> di;
  const size_t lanes = hn::Lanes(d);
  const auto shifts = hn::Set(di, shift), inputs = hn::Set(di, input_sum);
  const auto scale = hn::Set(d, input_scale);
  const auto add = [&](auto sum, auto weight_sum, auto weight_zero, auto weight_scale, auto value) HWY_ATTR {
    const auto exact = hn::Sub(hn::Sub(sum, hn::Mul(shifts, weight_sum)), hn::Mul(weight_zero, inputs));
    return hn::Add(value, hn::Mul(hn::ConvertTo(d, exact), hn::Mul(scale, weight_scale)));
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto zero = weight_zeros ? hn::LoadU(di, weight_zeros + i) : hn::Zero(di);
    hn::StoreU(add(hn::LoadU(di, sums + i), hn::LoadU(di, weight_sums + i), zero, hn::LoadU(d, weight_scales + i), hn::LoadU(d, y + i)), d, y + i);
  }
  for (; i < count; ++i)
    y[i] = hn::GetLane(add(hn::Set(di, sums[i]), hn::Set(di, weight_sums[i]), hn::Set(di, weight_zeros ? weight_zeros[i] : 0), hn::Set(d, weight_scales[i]), hn::Set(d, y[i])));
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmc {

HWY_EXPORT(find_range);
HWY_EXPORT(encode);
HWY_EXPORT(add_scaled);

InputGrid encode_input(const InputQuantization& input, std::span<const float> x, std::span<uint8_t> codes) {
  assert(codes.size() == x.size() && !input.scheme.is_float);
  float range[2];
  HWY_DYNAMIC_DISPATCH(find_range)(x.data(), x.size(), range);
  InputGrid grid = input.scheme.range == InputRange::calibrated ? input.grid : make_dynamic_grid(input.scheme, range[0], range[1]);
  if (!std::isfinite(range[0]) || !std::isfinite(grid.scale)) {
    std::ranges::fill(codes, static_cast<uint8_t>(code_offset));
    return {.scale = NAN, .zero_point = 0};
  }
  HWY_DYNAMIC_DISPATCH(encode)(x.data(), x.size(), grid.scale, static_cast<float>(grid.zero_point), static_cast<float>(input.scheme.lowest_code()), static_cast<float>(input.scheme.highest_code()), codes.data());
  return grid;
}

namespace {

/// To E4M3 and back, in f32 as compressed-tensors does.
void round_to_floats(const InputQuantization& input, std::span<const float> x, std::span<float> out) {
  float range[2];
  HWY_DYNAMIC_DISPATCH(find_range)(x.data(), x.size(), range);
  const float scale = input.scheme.range == InputRange::calibrated ? input.grid.scale : make_dynamic_grid(input.scheme, range[0], range[1]).scale;
  const bool is_finite = std::isfinite(range[0]) && std::isfinite(scale);
  for (size_t i = 0; i < out.size(); ++i) out[i] = is_finite ? f8_e4m3_to_f32(f32_to_f8_e4m3(x[i] / scale)) * scale : NAN;
}

}  // namespace

void round_input(const InputQuantization& input, std::span<const float> x, std::span<float> out) {
  if (input.scheme.is_float) return round_to_floats(input, x, out);
  const std::span<uint8_t> codes = thread_scratch<uint8_t, 1>(x.size());
  const InputGrid grid = encode_input(input, x, codes);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(codes[i] - code_offset - grid.zero_point) * grid.scale;
}

int64_t sum_codes(std::span<const uint8_t> codes) {
  int64_t sum = 0;
  for (uint8_t code : codes) sum += code;
  return sum;
}

void add_scaled_sums(const IntegerSums& row, std::span<float> y) {
  assert(row.sums.size() == y.size() && row.weight_sums.size() == y.size() && row.weight_scales.size() == y.size());
  HWY_DYNAMIC_DISPATCH(add_scaled)(row.sums.data(), row.weight_sums.data(), row.weight_zeros.empty() ? nullptr : row.weight_zeros.data(), row.weight_scales.data(), code_offset + row.grid.zero_point, row.input_sum, row.grid.scale, y.size(), y.data());
}

InputGrid encode_input_reference(const InputQuantization& input, std::span<const float> x, std::span<uint8_t> codes) {
  float low = 0, high = 0;
  bool is_finite = true;
  for (float v : x) low = std::min(low, v), high = std::max(high, v), is_finite &= std::isfinite(v);
  const InputGrid grid = input.scheme.range == InputRange::calibrated ? input.grid : make_dynamic_grid(input.scheme, low, high);
  is_finite &= std::isfinite(grid.scale);
  for (size_t i = 0; i < x.size(); ++i) codes[i] = static_cast<uint8_t>(is_finite ? quantize_value(input.scheme, grid, x[i]) + code_offset : code_offset);
  return is_finite ? grid : InputGrid{.scale = NAN, .zero_point = 0};
}

void add_scaled_sums_reference(const IntegerSums& row, std::span<float> y) {
  for (size_t i = 0; i < y.size(); ++i) {
    const int64_t zero = row.weight_zeros.empty() ? 0 : row.weight_zeros[i];
    const int64_t exact = int64_t{row.sums[i]} - int64_t{code_offset + row.grid.zero_point} * row.weight_sums[i] - zero * row.input_sum;
    y[i] += static_cast<float>(static_cast<int32_t>(exact)) * (row.grid.scale * row.weight_scales[i]);
  }
}

}  // namespace llmc
#endif
