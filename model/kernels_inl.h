// Owns the vector code that the kernels share. Included once per instruction set, after <hwy/highway.h>.
#include <algorithm>
#include <cmath>
#include <cstring>

#include <hwy/contrib/math/math-inl.h>

#if defined(LLMC_KERNELS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LLMC_KERNELS_INL
#undef LLMC_KERNELS_INL
#else
#define LLMC_KERNELS_INL
#endif

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

/// The first `count` of a vector's numbers, and zeros.
HWY_INLINE V load_first(const float* x, size_t count) {
  const D d;
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2  // whose masked loads do not touch what is masked out
  return hn::MaskedLoad(hn::FirstN(d, count), d, x);
#else
  HWY_ALIGN float values[hn::MaxLanes(d)] = {};
  std::memcpy(values, x, count * sizeof(float));
  return hn::Load(d, values);
#endif
}

HWY_INLINE void store_first(V v, size_t count, float* out) {
  const D d;
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  hn::BlendedStore(v, hn::FirstN(d, count), d, out);
#else
  HWY_ALIGN float values[hn::MaxLanes(d)];
  hn::Store(v, d, values);
  std::memcpy(out, values, count * sizeof(float));
#endif
}

/// out[i] = function(in[i]) a vector at a time; the rest goes through a vector padded with zeros. `out` may be `in`.
template <typename Function>
HWY_INLINE void transform(const float* in, size_t count, float* out, Function function) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(function(hn::LoadU(d, in + i)), d, out + i);
  if (i < count) store_first(function(load_first(in + i, count - i)), count - i, out + i);
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
  if (count < lanes) return *std::max_element(x, x + count);
  auto even = hn::LoadU(d, x + count - lanes);  // the last numbers, some of them a second time
  auto odd = even;
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    even = hn::Max(even, hn::LoadU(d, x + i));
    odd = hn::Max(odd, hn::LoadU(d, x + i + lanes));
  }
  if (i + lanes <= count) even = hn::Max(even, hn::LoadU(d, x + i));
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(even, odd)));
}

/// exp(x) for x up to 88, to 2e-7 of its value; 0 below the logarithm of the least normal number. NaN stays NaN: a broken model
/// must show. x = n ln 2 + r, and exp(r) is the polynomial of degree 6, 1 + r + …, that is nearest to it (3.1e-9, Remez).
HWY_INLINE V exp(V x) {
  const D d;
  const hn::RebindToUnsigned<D> u;
  const V shift = hn::Set(d, 12582912.0f);  // 1.5 · 2²³: a sum with it is rounded to an integer, which its lowest bits hold
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), shift), n = hn::Sub(shifted, shift);
  const V r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x));
  V q = hn::Set(d, 0.00138145401768f);
  for (const float coefficient : {0.00836874510894f, 0.0416683907835f, 0.16666520399f, 0.499999934321f}) q = hn::MulAdd(q, r, hn::Set(d, coefficient));
  const V power = hn::BitCast(d, hn::Add(hn::ShiftLeft<23>(hn::BitCast(u, shifted)), hn::Set(u, 0x3f800000u)));  // 2ⁿ
  const V result = hn::Mul(hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(d, 1.0f)), power);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.33654f)), result);
}

/// x / (1 + exp(u))
HWY_INLINE V divide_by_one_plus_exp(V x, V u) {
  const D d;
  return hn::Div(x, hn::Add(exp(hn::Min(u, hn::Set(d, 88.0f))), hn::Set(d, 1.0f)));
}

/// −2u of (1 + tanh(u)) / 2 = 1 / (1 + exp(−2u)) with u = √(2/π) (x + 0.044715 x³): of the approximate gelu
HWY_INLINE V gelu_tanh_exponent(V x) {
  const D d;
  const V cubic = hn::MulAdd(hn::Mul(x, x), hn::Set(d, 0.044715f), hn::Set(d, 1.0f));
  return hn::Mul(hn::Mul(x, cubic), hn::Set(d, -1.5957691216057308f));
}

/// Φ(x) = erfc(−x/√2) / 2; erfc to 1.2e-7 of its value by Numerical Recipes, 2nd edition, 6.2 (erfcc).
HWY_INLINE V normal_share(V x) {
  const D d;
  constexpr float coefficients[] = {-0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f, 0.09678418f, 0.37409196f, 1.00002368f, -1.26551223f};
  const V t = hn::Div(hn::Set(d, 1.0f), hn::MulAdd(hn::Abs(x), hn::Set(d, 0.35355339059327373f), hn::Set(d, 1.0f)));  // 1 / (1 + |x|/√8)
  V power = hn::Set(d, 0.17087277f);
  for (float coefficient : coefficients) power = hn::MulAdd(power, t, hn::Set(d, coefficient));
  power = hn::NegMulAdd(hn::Mul(x, x), hn::Set(d, 0.5f), power);
  const V tail = hn::Mul(hn::Mul(t, exp(power)), hn::Set(d, 0.5f));  // Φ(−|x|)
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail));
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
