#include "model/kernels.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

/// out[i] = function(in[i]) a vector at a time; the rest goes through a vector padded with zeros. `out` may be `in`.
template <typename Function>
HWY_INLINE void transform(const float* in, size_t count, float* out, Function function) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(function(hn::LoadU(d, in + i)), d, out + i);
  if (i == count) return;
  HWY_ALIGN float rest[hn::MaxLanes(d)] = {};
  std::memcpy(rest, in + i, (count - i) * sizeof(float));
  hn::Store(function(hn::Load(d, rest)), d, rest);
  std::memcpy(out + i, rest, (count - i) * sizeof(float));
}

/// out[i] = function(x[i], y[i])
template <typename Function>
HWY_INLINE void transform(const float* x, const float* y, size_t count, float* out, Function function) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(function(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, out + i);
  for (; i < count; ++i) out[i] = hn::GetLane(function(hn::Set(d, x[i]), hn::Set(d, y[i])));
}

/// Σ function(x[i]) in f64: two chains of vectors, then their lanes in order.
template <typename Function>
HWY_INLINE double sum(const float* x, size_t count, Function function) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const size_t lanes = hn::Lanes(d);
  auto even = hn::Zero(d);
  auto odd = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    even = hn::Add(even, function(hn::PromoteTo(d, hn::LoadU(half, x + i))));
    odd = hn::Add(odd, function(hn::PromoteTo(d, hn::LoadU(half, x + i + lanes))));
  }
  double total = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  for (; i < count; ++i) total += hn::GetLane(function(hn::Set(d, double{x[i]})));
  return total;
}

HWY_INLINE float max(const float* x, size_t count) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  auto even = hn::Set(d, x[0]);
  auto odd = even;
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    even = hn::Max(even, hn::LoadU(d, x + i));
    odd = hn::Max(odd, hn::LoadU(d, x + i + lanes));
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, hn::Max(even, odd)));
  for (; i < count; ++i) largest = std::max(largest, x[i]);
  return largest;
}

/// exp(x) for x up to 104; from 89 on it is infinite. Highway's own answers 0 for NaN, but a broken model must show.
HWY_INLINE V exp(V x) { return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(D{}, x)); }

void rms_norm(const float* x, const float* weight, double epsilon, size_t count, float* out) {
  const double squares = sum(x, count, [](auto v) HWY_ATTR { return hn::Mul(v, v); });
  const V scale = hn::Set(D{}, static_cast<float>(1 / std::sqrt(squares / static_cast<double>(count) + epsilon)));
  transform(x, weight, count, out, [&](V v, V w) HWY_ATTR { return hn::Mul(hn::Mul(v, scale), w); });
}

void layer_norm(const float* x, const float* weight, const float* bias, double epsilon, size_t count, float* out) {
  const double mean = sum(x, count, [](auto v) HWY_ATTR { return v; }) / static_cast<double>(count);
  const hn::ScalableTag<double> d64;
  const double squares = sum(x, count, [&](auto v) HWY_ATTR {
    const auto centred = hn::Sub(v, hn::Set(d64, mean));
    return hn::Mul(centred, centred);
  });
  const V centre = hn::Set(D{}, static_cast<float>(mean));
  const V scale = hn::Set(D{}, static_cast<float>(1 / std::sqrt(squares / static_cast<double>(count) + epsilon)));
  transform(x, weight, count, out, [&](V v, V w) HWY_ATTR { return hn::Mul(hn::Mul(hn::Sub(v, centre), scale), w); });
  if (bias) transform(out, bias, count, out, [](V v, V b) HWY_ATTR { return hn::Add(v, b); });
}

void rotate_heads(float* heads, size_t count, const float* cosines, const float* sines, size_t half) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  for (float* first = heads; first < heads + count; first += 2 * half) {
    float* second = first + half;
    size_t i = 0;
    for (; i + lanes <= half; i += lanes) {
      const V a = hn::LoadU(d, first + i);
      const V b = hn::LoadU(d, second + i);
      const V cosine = hn::LoadU(d, cosines + i);
      const V sine = hn::LoadU(d, sines + i);
      hn::StoreU(hn::Sub(hn::Mul(a, cosine), hn::Mul(b, sine)), d, first + i);
      hn::StoreU(hn::Add(hn::Mul(b, cosine), hn::Mul(a, sine)), d, second + i);
    }
    for (; i < half; ++i) {
      const float a = first[i];
      const float b = second[i];
      first[i] = a * cosines[i] - b * sines[i];
      second[i] = b * cosines[i] + a * sines[i];
    }
  }
}

void softmax(float* row, size_t count) {
  const D d;
  const V largest = hn::Set(d, max(row, count));
  V total = hn::Zero(d);
  const size_t lanes = hn::Lanes(d);
  const size_t whole = count - count % lanes;
  transform(row, whole, row, [&](V v) HWY_ATTR {
    const V e = exp(hn::Sub(v, largest));
    total = hn::Add(total, e);
    return e;
  });
  float rest = 0;
  transform(row + whole, count - whole, row + whole, [&](V v) HWY_ATTR { return exp(hn::Sub(v, largest)); });
  for (size_t i = whole; i < count; ++i) rest += row[i];
  const V scale = hn::Set(d, 1 / (hn::GetLane(hn::SumOfLanes(d, total)) + rest));
  transform(row, count, row, [&](V v) HWY_ATTR { return hn::Mul(v, scale); });
}

/// Lanes are added in f32 for a piece of the row only, and the pieces in f64.
double log_sum_exp(const float* row, size_t count) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const size_t piece = 64 * lanes;
  const float largest_value = max(row, count);
  const V largest = hn::Set(d, largest_value);
  HWY_ALIGN float values[hn::MaxLanes(d)];
  double total = 0;
  const auto add_lanes = [&](V v, size_t used) HWY_ATTR {
    hn::Store(v, d, values);
    for (size_t i = 0; i < used; ++i) total += values[i];
  };
  const size_t whole = count - count % (2 * lanes);
  for (size_t first = 0; first < whole; first += piece) {
    V even = hn::Zero(d);
    V odd = hn::Zero(d);
    for (size_t i = first; i < std::min(whole, first + piece); i += 2 * lanes) {
      even = hn::Add(even, exp(hn::Sub(hn::LoadU(d, row + i), largest)));
      odd = hn::Add(odd, exp(hn::Sub(hn::LoadU(d, row + i + lanes), largest)));
    }
    add_lanes(hn::Add(even, odd), lanes);
  }
  for (size_t i = whole; i < count; i += lanes) {
    const size_t used = std::min(lanes, count - i);
    std::memcpy(values, row + i, used * sizeof(float));
    std::fill(values + used, values + lanes, largest_value);
    add_lanes(exp(hn::Sub(hn::Load(d, values), largest)), used);
  }
  return double{largest_value} + std::log(total);
}

/// x / (1 + exp(u))
HWY_INLINE V divide_by_one_plus_exp(V x, V u) {
  const D d;
  return hn::Div(x, hn::Add(exp(hn::Min(u, hn::Set(d, 104.0f))), hn::Set(d, 1.0f)));
}

void silu(float* x, size_t count) {
  transform(x, count, x, [](V v) HWY_ATTR { return divide_by_one_plus_exp(v, hn::Neg(v)); });
}

/// (1 + tanh(u)) / 2 = 1 / (1 + exp(−2u)) with u = √(2/π) (x + 0.044715 x³)
void gelu_tanh(float* x, size_t count) {
  const D d;
  transform(x, count, x, [&](V v) HWY_ATTR {
    const V cubic = hn::MulAdd(hn::Mul(v, v), hn::Set(d, 0.044715f), hn::Set(d, 1.0f));
    return divide_by_one_plus_exp(v, hn::Mul(hn::Mul(v, cubic), hn::Set(d, -1.5957691216057308f)));
  });
}

/// x · erfc(−x/√2) / 2; erfc to 1.2e-7 of its value by Numerical Recipes, 2nd edition, 6.2 (erfcc).
void gelu(float* x, size_t count) {
  const D d;
  constexpr float coefficients[] = {-0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f, 0.09678418f, 0.37409196f, 1.00002368f, -1.26551223f};
  transform(x, count, x, [&](V v) HWY_ATTR {
    const V t = hn::Div(hn::Set(d, 1.0f), hn::MulAdd(hn::Abs(v), hn::Set(d, 0.35355339059327373f), hn::Set(d, 1.0f)));  // 1 / (1 + |x|/√8)
    V power = hn::Set(d, 0.17087277f);
    for (float coefficient : coefficients) power = hn::MulAdd(power, t, hn::Set(d, coefficient));
    power = hn::NegMulAdd(hn::Mul(v, v), hn::Set(d, 0.5f), power);
    const V tail = hn::Mul(hn::Mul(t, exp(power)), hn::Set(d, 0.5f));  // Φ(−|x|)
    return hn::Mul(v, hn::IfThenElse(hn::Lt(v, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail)));
  });
}

void relu(float* x, size_t count) {
  const D d;
  transform(x, count, x, [&](V v) HWY_ATTR { return hn::IfThenZeroElse(hn::Lt(v, hn::Zero(d)), v); });
}

void multiply_by(float* y, const float* x, size_t count) {
  transform(y, x, count, y, [](V a, V b) HWY_ATTR { return hn::Mul(a, b); });
}

void add_to(float* y, const float* x, size_t count) {
  transform(y, x, count, y, [](V a, V b) HWY_ATTR { return hn::Add(a, b); });
}

/// The bf16 bits in the upper half of each lane: as f32_to_bf16 in core/dtype.cc.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_bits(V v) {
  const hn::RebindToUnsigned<D> u;
  const auto bits = hn::BitCast(u, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(u, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(u, 0x400000u));
  return hn::And(hn::IfThenElse(hn::RebindMask(u, hn::IsNaN(v)), quiet, rounded), hn::Set(u, 0xffff0000u));
}

void round_to_bf16(const float* x, size_t count, float* out) {
  transform(x, count, out, [](V v) HWY_ATTR { return hn::BitCast(D{}, round_bits(v)); });
}

void narrow_to_bf16(const float* x, size_t count, uint16_t* out) {
  const D d;
  const hn::RebindToSigned<D> i32;
  const hn::Rebind<uint16_t, D> u16;
  const size_t lanes = hn::Lanes(d);
  const auto narrow = [&](V v) HWY_ATTR { return hn::DemoteTo(u16, hn::BitCast(i32, hn::ShiftRight<16>(round_bits(v)))); };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(narrow(hn::LoadU(d, x + i)), u16, out + i);
  for (; i < count; ++i) out[i] = hn::GetLane(narrow(hn::Set(d, x[i])));
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmc {

HWY_EXPORT(rms_norm);
HWY_EXPORT(layer_norm);
HWY_EXPORT(rotate_heads);
HWY_EXPORT(softmax);
HWY_EXPORT(log_sum_exp);
HWY_EXPORT(silu);
HWY_EXPORT(gelu);
HWY_EXPORT(gelu_tanh);
HWY_EXPORT(relu);
HWY_EXPORT(multiply_by);
HWY_EXPORT(add_to);
HWY_EXPORT(round_to_bf16);
HWY_EXPORT(narrow_to_bf16);

void rms_norm(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<float> out) {
  assert(!x.empty() && weight.size() == x.size() && out.size() == x.size());
  HWY_DYNAMIC_DISPATCH(rms_norm)(x.data(), weight.data(), epsilon, x.size(), out.data());
}

void layer_norm(std::span<const float> x, std::span<const float> weight, std::span<const float> bias, double epsilon, std::span<float> out) {
  assert(!x.empty() && weight.size() == x.size() && out.size() == x.size() && (bias.empty() || bias.size() == x.size()));
  HWY_DYNAMIC_DISPATCH(layer_norm)(x.data(), weight.data(), bias.empty() ? nullptr : bias.data(), epsilon, x.size(), out.data());
}

void rotate_heads(std::span<float> heads, std::span<const float> cosines, std::span<const float> sines) {
  assert(!cosines.empty() && sines.size() == cosines.size() && heads.size() % (2 * cosines.size()) == 0);
  HWY_DYNAMIC_DISPATCH(rotate_heads)(heads.data(), heads.size(), cosines.data(), sines.data(), cosines.size());
}

void softmax(std::span<float> row) {
  assert(!row.empty());
  HWY_DYNAMIC_DISPATCH(softmax)(row.data(), row.size());
}

double log_sum_exp(std::span<const float> row) {
  assert(!row.empty());
  return HWY_DYNAMIC_DISPATCH(log_sum_exp)(row.data(), row.size());
}

void activate(Activation activation, std::span<float> x) {
  switch (activation) {
    case Activation::silu: return HWY_DYNAMIC_DISPATCH(silu)(x.data(), x.size());
    case Activation::gelu: return HWY_DYNAMIC_DISPATCH(gelu)(x.data(), x.size());
    case Activation::gelu_tanh: return HWY_DYNAMIC_DISPATCH(gelu_tanh)(x.data(), x.size());
    case Activation::relu: return HWY_DYNAMIC_DISPATCH(relu)(x.data(), x.size());
  }
}

void multiply_by(std::span<float> y, std::span<const float> x) {
  assert(x.size() == y.size());
  HWY_DYNAMIC_DISPATCH(multiply_by)(y.data(), x.data(), y.size());
}

void add_to(std::span<float> y, std::span<const float> x) {
  assert(x.size() == y.size());
  HWY_DYNAMIC_DISPATCH(add_to)(y.data(), x.data(), y.size());
}

void round_to_bf16(std::span<const float> x, std::span<float> out) {
  assert(out.size() == x.size());
  HWY_DYNAMIC_DISPATCH(round_to_bf16)(x.data(), x.size(), out.data());
}

void narrow_to_bf16(std::span<const float> x, std::span<uint16_t> out) {
  assert(out.size() == x.size());
  HWY_DYNAMIC_DISPATCH(narrow_to_bf16)(x.data(), x.size(), out.data());
}

}  // namespace llmc
#endif
