#include "model/panel_kernels.h"

#include <cassert>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/panel_kernels.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

int64_t panel_width() { return 2 * static_cast<int64_t>(hn::Lanes(D{})); }

// Twelve sums, two vectors of the panel and one of A are 15 of the 16 registers there are from SSE to AVX2; twelve chains are
// more than the latency of an addition asks for (Goto and van de Geijn 2008, Anatomy of High-Performance Matrix Multiplication).
constexpr int most_rows = 6;

/// y [rows, width] from A [rows, depth].
template <int rows>
HWY_INLINE void multiply_rows(const PanelProduct& of, const float* a, float* y) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  V low[rows], high[rows];
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r) {
    low[r] = hn::Zero(d), high[r] = hn::Zero(d);
    __builtin_prefetch(y + r * of.y_stride, 1);
  }
  const float* b = of.b;
  for (const float* const end = a + of.depth; a < end; ++a, b += 2 * lanes) {
    const V b_low = hn::Load(d, b), b_high = hn::Load(d, b + lanes);
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r) {
      const V factor = hn::Set(d, a[r * of.a_stride]);
      low[r] = hn::MulAdd(factor, b_low, low[r]);
      high[r] = hn::MulAdd(factor, b_high, high[r]);
    }
  }
  if (!of.is_first) {
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r) {
      low[r] = hn::Add(hn::LoadU(d, y + r * of.y_stride), low[r]);
      high[r] = hn::Add(hn::LoadU(d, y + r * of.y_stride + lanes), high[r]);
    }
  }
  if (of.is_last) {
    const V alpha = hn::Set(d, of.alpha), bias_low = hn::LoadU(d, of.bias), bias_high = hn::LoadU(d, of.bias + lanes);
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r) {
      low[r] = hn::Add(hn::Mul(alpha, low[r]), bias_low);
      high[r] = hn::Add(hn::Mul(alpha, high[r]), bias_high);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r) {
    hn::StoreU(low[r], d, y + r * of.y_stride);
    hn::StoreU(high[r], d, y + r * of.y_stride + lanes);
  }
}

void multiply_panel(const PanelProduct& of) {
  const float* a = of.a;
  float* y = of.y;
  int64_t r = 0;
  for (; r + most_rows <= of.rows; r += most_rows, a += most_rows * of.a_stride, y += most_rows * of.y_stride) multiply_rows<most_rows>(of, a, y);
  switch (of.rows - r) {
    case 1: return multiply_rows<1>(of, a, y);
    case 2: return multiply_rows<2>(of, a, y);
    case 3: return multiply_rows<3>(of, a, y);
    case 4: return multiply_rows<4>(of, a, y);
    case 5: return multiply_rows<5>(of, a, y);
    default: return;
  }
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmc {

HWY_EXPORT(panel_width);
HWY_EXPORT(multiply_panel);

int64_t panel_width() { return HWY_DYNAMIC_DISPATCH(panel_width)(); }

void multiply_panel(const PanelProduct& product) { HWY_DYNAMIC_DISPATCH(multiply_panel)(product); }

}  // namespace llmc
#endif
