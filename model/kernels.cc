#include "model/kernels.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "model/kernels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

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

void rotate_heads(float* heads, size_t count, size_t head_dim, const float* cosines, const float* sines, size_t half) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  for (float* first = heads; first < heads + count; first += head_dim) {
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
  if (const size_t left = count - whole; left > 0) {
    const V e = exp(hn::Sub(load_first(row + whole, left), largest));
    total = hn::Add(total, hn::IfThenElseZero(hn::FirstN(d, left), e));
    store_first(e, left, row + whole);
  }
  const V scale = hn::Set(d, 1 / hn::GetLane(hn::SumOfLanes(d, total)));
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

size_t find_largest(const float* row, size_t count) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const float largest_value = max(row, count);
  const V largest = hn::Set(d, largest_value);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes)
    if (const intptr_t at = hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, row + i), largest)); at >= 0) return i + static_cast<size_t>(at);
  for (; i < count; ++i)
    if (row[i] == largest_value) return i;
  return 0;
}

double sum_divergence(const float* logits, double log_sum, const float* other_logits, double other_log_sum, size_t count) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const size_t lanes = hn::Lanes(d);
  const auto shift = hn::Set(d, log_sum), other_shift = hn::Set(d, other_log_sum);
  const auto term = [&](auto a, auto b) HWY_ATTR {
    const auto log_p = hn::Sub(a, shift), log_q = hn::Sub(b, other_shift);
    return hn::Mul(hn::IfThenElse(hn::IsNaN(log_p), log_p, hn::Exp(d, log_p)), hn::Sub(log_p, log_q));
  };
  const auto load = [&](const float* from) HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(half, from)); };
  auto even = hn::Zero(d), odd = even;
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    even = hn::Add(even, term(load(logits + i), load(other_logits + i)));
    odd = hn::Add(odd, term(load(logits + i + lanes), load(other_logits + i + lanes)));
  }
  double total = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  for (; i < count; ++i) total += hn::GetLane(term(hn::Set(d, double{logits[i]}), hn::Set(d, double{other_logits[i]})));
  return total;
}

void silu(float* x, size_t count) {
  transform(x, count, x, [](V v) HWY_ATTR { return divide_by_one_plus_exp(v, hn::Neg(v)); });
}

void gelu_tanh(float* x, size_t count) {
  transform(x, count, x, [](V v) HWY_ATTR { return divide_by_one_plus_exp(v, gelu_tanh_exponent(v)); });
}

void gelu(float* x, size_t count) {
  transform(x, count, x, [](V v) HWY_ATTR { return hn::Mul(v, normal_share(v)); });
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

/// `vectors` vectors of x · matrix from column c on, in `chains` sums that are added at the end.
template <size_t vectors, size_t chains>
HWY_INLINE void multiply_columns(const float* x, size_t rows, const float* matrix, size_t stride, float* out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  V sums[chains][vectors];
  for (auto& chain : sums)
    for (V& sum : chain) sum = hn::Zero(d);
  const auto add_row = [&](size_t r, V* chain) HWY_ATTR {
    const V factor = hn::Set(d, x[r]);
    for (size_t v = 0; v < vectors; ++v) chain[v] = hn::MulAdd(factor, hn::LoadU(d, matrix + r * stride + v * lanes), chain[v]);
  };
  size_t r = 0;
  for (; r + chains <= rows; r += chains)
    for (size_t chain = 0; chain < chains; ++chain) add_row(r + chain, sums[chain]);
  for (; r < rows; ++r) add_row(r, sums[0]);
  for (size_t chain = 1; chain < chains; ++chain)
    for (size_t v = 0; v < vectors; ++v) sums[0][v] = hn::Add(sums[0][v], sums[chain][v]);
  for (size_t v = 0; v < vectors; ++v) hn::StoreU(sums[0][v], d, out + v * lanes);
}

void multiply_row(const float* x, size_t rows, const float* matrix, size_t cols, size_t stride, float* out) {
  const size_t lanes = hn::Lanes(D{});
  size_t c = 0;
  for (; c + 8 * lanes <= cols; c += 8 * lanes) multiply_columns<8, 1>(x, rows, matrix + c, stride, out + c);
  for (; c + 2 * lanes <= cols; c += 2 * lanes) multiply_columns<2, 4>(x, rows, matrix + c, stride, out + c);
  for (; c < cols; ++c) {
    float sum = 0;
    for (size_t r = 0; r < rows; ++r) sum += x[r] * matrix[r * stride + c];
    out[c] = sum;
  }
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
HWY_EXPORT(find_largest);
HWY_EXPORT(sum_divergence);
HWY_EXPORT(silu);
HWY_EXPORT(gelu);
HWY_EXPORT(gelu_tanh);
HWY_EXPORT(relu);
HWY_EXPORT(multiply_by);
HWY_EXPORT(add_to);
HWY_EXPORT(multiply_row);
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

void rotate_heads(std::span<float> heads, size_t head_dim, std::span<const float> cosines, std::span<const float> sines) {
  assert(sines.size() == cosines.size() && 2 * cosines.size() <= head_dim && heads.size() % head_dim == 0);
  HWY_DYNAMIC_DISPATCH(rotate_heads)(heads.data(), heads.size(), head_dim, cosines.data(), sines.data(), cosines.size());
}

void softmax(std::span<float> row) {
  assert(!row.empty());
  HWY_DYNAMIC_DISPATCH(softmax)(row.data(), row.size());
}

double log_sum_exp(std::span<const float> row) {
  assert(!row.empty());
  return HWY_DYNAMIC_DISPATCH(log_sum_exp)(row.data(), row.size());
}

size_t find_largest(std::span<const float> row) {
  assert(!row.empty());
  return HWY_DYNAMIC_DISPATCH(find_largest)(row.data(), row.size());
}

double sum_divergence(std::span<const float> logits, double log_sum, std::span<const float> other_logits, double other_log_sum) {
  assert(other_logits.size() == logits.size());
  return HWY_DYNAMIC_DISPATCH(sum_divergence)(logits.data(), log_sum, other_logits.data(), other_log_sum, logits.size());
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

void multiply_row(std::span<const float> x, ConstMatrixView matrix, std::span<float> out) {
  assert(static_cast<int64_t>(x.size()) == matrix.rows && static_cast<int64_t>(out.size()) == matrix.cols);
  HWY_DYNAMIC_DISPATCH(multiply_row)(x.data(), x.size(), matrix.data, out.size(), static_cast<size_t>(matrix.stride), out.data());
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
