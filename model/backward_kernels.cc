#include "model/backward_kernels.h"

#include <cassert>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/backward_kernels.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "model/kernels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

/// value = x · share(x), slope = share(x) + x · share′(x); `function` answers both of share.
template <typename Function>
HWY_INLINE void transform_share(const float* x, size_t count, float* value, float* slope, Function function) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  const auto step = [&](V v, float* to_value, float* to_slope) HWY_ATTR {
    V share = v, share_slope = v;
    function(v, share, share_slope);
    hn::StoreU(hn::Mul(v, share), d, to_value);
    hn::StoreU(hn::MulAdd(v, share_slope, share), d, to_slope);
  };
  for (; i + lanes <= count; i += lanes) step(hn::LoadU(d, x + i), value + i, slope + i);
  if (i == count) return;
  HWY_ALIGN float in[hn::MaxLanes(d)] = {};
  HWY_ALIGN float out[hn::MaxLanes(d)];
  HWY_ALIGN float out_slope[hn::MaxLanes(d)];
  std::memcpy(in, x + i, (count - i) * sizeof(float));
  step(hn::Load(d, in), out, out_slope);
  std::memcpy(value + i, out, (count - i) * sizeof(float));
  std::memcpy(slope + i, out_slope, (count - i) * sizeof(float));
}

void silu_with_slope(const float* x, size_t count, float* value, float* slope) {
  transform_share(x, count, value, slope, [](V v, V& share, V& share_slope) HWY_ATTR {
    const V one = hn::Set(D{}, 1.0f);
    share = divide_by_one_plus_exp(one, hn::Neg(v));
    share_slope = hn::Mul(share, hn::Sub(one, share));
  });
}

void gelu_tanh_with_slope(const float* x, size_t count, float* value, float* slope) {
  transform_share(x, count, value, slope, [](V v, V& share, V& share_slope) HWY_ATTR {
    const D d;
    const V one = hn::Set(d, 1.0f);
    share = divide_by_one_plus_exp(one, gelu_tanh_exponent(v));
    const V inner = hn::MulAdd(hn::Mul(v, v), hn::Set(d, 3 * 0.044715f * 1.5957691216057308f), hn::Set(d, 1.5957691216057308f));
    share_slope = hn::Mul(hn::Mul(share, hn::Sub(one, share)), inner);
  });
}

void gelu_with_slope(const float* x, size_t count, float* value, float* slope) {
  transform_share(x, count, value, slope, [](V v, V& share, V& share_slope) HWY_ATTR {
    const D d;
    share = normal_share(v);
    share_slope = hn::Mul(hn::Set(d, 0.3989422804014327f), exp(hn::Mul(hn::Mul(v, v), hn::Set(d, -0.5f))));  // φ(x)
  });
}

void relu_with_slope(const float* x, size_t count, float* value, float* slope) {
  transform_share(x, count, value, slope, [](V v, V& share, V& share_slope) HWY_ATTR {
    const D d;
    share = hn::IfThenElse(hn::IsNaN(v), v, hn::IfThenElseZero(hn::Gt(v, hn::Zero(d)), hn::Set(d, 1.0f)));
    share_slope = hn::Zero(d);
  });
}

/// Σ function(x[i], y[i], z[i]) in f64, as `sum`.
template <typename Function>
HWY_INLINE double sum_of_three(const float* x, const float* y, const float* z, size_t count, Function function) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const size_t lanes = hn::Lanes(d);
  const auto load = [&](const float* from) HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(half, from)); };
  auto total = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) total = hn::Add(total, function(load(x + i), load(y + i), load(z + i)));
  double result = hn::GetLane(hn::SumOfLanes(d, total));
  for (; i < count; ++i) result += hn::GetLane(function(hn::Set(d, double{x[i]}), hn::Set(d, double{y[i]}), hn::Set(d, double{z[i]})));
  return result;
}

/// d_x = scale · (w · d_y − mean_g − (x − centre) · pull), d_weight += d_y · (x − centre) · scale, d_bias += d_y. Elements
/// past the last whole vector go one at a time.
HWY_INLINE void finish_norm(const float* x, const float* weight, const float* d_y, size_t count, float centre, float scale, float mean_g, float pull, float* d_x, float* d_weight, float* d_bias) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const V g = hn::LoadU(d, d_y + i);
    const V centred = hn::Sub(hn::LoadU(d, x + i), hn::Set(d, centre));
    if (d_weight) hn::StoreU(hn::MulAdd(g, hn::Mul(centred, hn::Set(d, scale)), hn::LoadU(d, d_weight + i)), d, d_weight + i);
    if (d_bias) hn::StoreU(hn::Add(hn::LoadU(d, d_bias + i), g), d, d_bias + i);
    const V inner = hn::NegMulAdd(centred, hn::Set(d, pull), hn::MulSub(hn::LoadU(d, weight + i), g, hn::Set(d, mean_g)));
    hn::StoreU(hn::Mul(hn::Set(d, scale), inner), d, d_x + i);
  }
  for (; i < count; ++i) {
    const float g = d_y[i], centred = x[i] - centre;
    if (d_weight) d_weight[i] += g * (centred * scale);
    if (d_bias) d_bias[i] += g;
    d_x[i] = scale * (weight[i] * g - mean_g - centred * pull);
  }
}

void rms_norm_backward(const float* x, const float* weight, double epsilon, const float* d_y, size_t count, float* d_x, float* d_weight) {
  const double size = static_cast<double>(count);
  const double squares = sum(x, count, [](auto v) HWY_ATTR { return hn::Mul(v, v); });
  const double scale = 1 / std::sqrt(squares / size + epsilon);
  const double along = sum_of_three(x, weight, d_y, count, [](auto a, auto b, auto c) HWY_ATTR { return hn::Mul(hn::Mul(a, b), c); });
  finish_norm(x, weight, d_y, count, 0, static_cast<float>(scale), 0, static_cast<float>(along * scale * scale / size), d_x, d_weight, nullptr);
}

void layer_norm_backward(const float* x, const float* weight, double epsilon, const float* d_y, size_t count, float* d_x, float* d_weight, float* d_bias) {
  const double size = static_cast<double>(count);
  const double mean = sum(x, count, [](auto v) HWY_ATTR { return v; }) / size;
  const hn::ScalableTag<double> d64;
  const double squares = sum(x, count, [&](auto v) HWY_ATTR {
    const auto centred = hn::Sub(v, hn::Set(d64, mean));
    return hn::Mul(centred, centred);
  });
  const double scale = 1 / std::sqrt(squares / size + epsilon);
  const double total = sum_of_three(x, weight, d_y, count, [](auto, auto b, auto c) HWY_ATTR { return hn::Mul(b, c); });
  const double along = sum_of_three(x, weight, d_y, count, [&](auto a, auto b, auto c) HWY_ATTR { return hn::Mul(hn::Mul(hn::Sub(a, hn::Set(d64, mean)), b), c); });
  finish_norm(x, weight, d_y, count, static_cast<float>(mean), static_cast<float>(scale), static_cast<float>(total / size), static_cast<float>(along * scale * scale / size), d_x, d_weight, d_bias);
}

void softmax_backward(const float* p, float scale, size_t count, float* d_p) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  V even = hn::Zero(d), odd = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    even = hn::MulAdd(hn::LoadU(d, p + i), hn::LoadU(d, d_p + i), even);
    odd = hn::MulAdd(hn::LoadU(d, p + i + lanes), hn::LoadU(d, d_p + i + lanes), odd);
  }
  float dot = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  for (; i < count; ++i) dot += p[i] * d_p[i];
  transform(p, d_p, count, d_p, [&](V a, V b) HWY_ATTR { return hn::Mul(hn::Mul(a, hn::Set(d, scale)), hn::Sub(b, hn::Set(d, dot))); });
}

void add_scaled(float* y, float factor, const float* x, size_t count) {
  transform(y, x, count, y, [&](V a, V b) HWY_ATTR { return hn::Add(a, hn::Mul(hn::Set(D{}, factor), b)); });
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmc {

HWY_EXPORT(silu_with_slope);
HWY_EXPORT(gelu_with_slope);
HWY_EXPORT(gelu_tanh_with_slope);
HWY_EXPORT(relu_with_slope);
HWY_EXPORT(rms_norm_backward);
HWY_EXPORT(layer_norm_backward);
HWY_EXPORT(softmax_backward);
HWY_EXPORT(add_scaled);

void activate_with_slope(Activation activation, std::span<const float> x, std::span<float> value, std::span<float> slope) {
  assert(value.size() == x.size() && slope.size() == x.size());
  switch (activation) {
    case Activation::silu: return HWY_DYNAMIC_DISPATCH(silu_with_slope)(x.data(), x.size(), value.data(), slope.data());
    case Activation::gelu: return HWY_DYNAMIC_DISPATCH(gelu_with_slope)(x.data(), x.size(), value.data(), slope.data());
    case Activation::gelu_tanh: return HWY_DYNAMIC_DISPATCH(gelu_tanh_with_slope)(x.data(), x.size(), value.data(), slope.data());
    case Activation::relu: return HWY_DYNAMIC_DISPATCH(relu_with_slope)(x.data(), x.size(), value.data(), slope.data());
  }
}

void rms_norm_backward(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<const float> d_y, std::span<float> d_x, std::span<float> d_weight) {
  assert(!x.empty() && weight.size() == x.size() && d_y.size() == x.size() && d_x.size() == x.size() && (d_weight.empty() || d_weight.size() == x.size()));
  HWY_DYNAMIC_DISPATCH(rms_norm_backward)(x.data(), weight.data(), epsilon, d_y.data(), x.size(), d_x.data(), d_weight.empty() ? nullptr : d_weight.data());
}

void layer_norm_backward(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<const float> d_y, std::span<float> d_x, std::span<float> d_weight, std::span<float> d_bias) {
  assert(!x.empty() && weight.size() == x.size() && d_y.size() == x.size() && d_x.size() == x.size() && (d_weight.empty() || d_weight.size() == x.size()) && (d_bias.empty() || d_bias.size() == x.size()));
  HWY_DYNAMIC_DISPATCH(layer_norm_backward)(x.data(), weight.data(), epsilon, d_y.data(), x.size(), d_x.data(), d_weight.empty() ? nullptr : d_weight.data(), d_bias.empty() ? nullptr : d_bias.data());
}

void softmax_backward(std::span<const float> p, float scale, std::span<float> d_p) {
  assert(p.size() == d_p.size());
  HWY_DYNAMIC_DISPATCH(softmax_backward)(p.data(), scale, p.size(), d_p.data());
}

void add_scaled(std::span<float> y, float factor, std::span<const float> x) {
  assert(x.size() == y.size());
  HWY_DYNAMIC_DISPATCH(add_scaled)(y.data(), factor, x.data(), y.size());
}

}  // namespace llmc
#endif
