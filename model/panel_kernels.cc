#include "model/panel_kernels.h"

#include <algorithm>

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
constexpr int most_rows = panel_rows;

constexpr int64_t line_floats = 16, most_lines = 64;

/// Lines of the next panel that one call of multiply_rows asks for: all calls together ask for all of it, but where few rows
/// go by that would be more at once than a core can wait for.
int64_t lines_each(const PanelProduct& of) {
  if (!of.next) return 0;
  const int64_t lines = of.depth * panel_width() / line_floats, calls = (of.rows + most_rows - 1) / most_rows, share = (lines + calls - 1) / calls;
  return share <= most_lines ? share : 0;
}

/// y [rows, width] from A [rows, depth]; of six rows that are interleaved, the first ones.
template <int rows, bool interleaved>
HWY_INLINE void multiply_rows(const PanelProduct& of, const float* a, float* y) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const int64_t to_row = interleaved ? 1 : of.a_stride;
  constexpr int64_t to_next = interleaved ? most_rows : 1;
  V low[rows], high[rows];
#pragma GCC unroll 6
  for (int r = 0; r < rows; ++r) {
    low[r] = hn::Zero(d), high[r] = hn::Zero(d);
    __builtin_prefetch(y + r * of.y_stride, 1);
  }
  const float* b = of.b;
  for (const float* const end = a + of.depth * to_next; a < end; a += to_next, b += 2 * lanes) {
    const V b_low = hn::Load(d, b), b_high = hn::Load(d, b + lanes);
#pragma GCC unroll 6
    for (int r = 0; r < rows; ++r) {
      const V factor = hn::Set(d, a[r * to_row]);
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

template <bool interleaved>
void multiply_all(const PanelProduct& of) {
  const int64_t step = most_rows * (interleaved ? of.depth : of.a_stride), lines = lines_each(of);
  const float *a = of.a, *next = of.next;
  float* y = of.y;
  int64_t r = 0;
  for (; r + most_rows <= of.rows; r += most_rows, a += step, y += most_rows * of.y_stride) {
    for (int64_t i = 0; i < lines; ++i, next += line_floats) __builtin_prefetch(next, 0, 2);
    multiply_rows<most_rows, interleaved>(of, a, y);
  }
  switch (of.rows - r) {
    case 1: return multiply_rows<1, interleaved>(of, a, y);
    case 2: return multiply_rows<2, interleaved>(of, a, y);
    case 3: return multiply_rows<3, interleaved>(of, a, y);
    case 4: return multiply_rows<4, interleaved>(of, a, y);
    case 5: return multiply_rows<5, interleaved>(of, a, y);
    default: return;
  }
}

void multiply_panel(const PanelProduct& of) { of.a_stride == 0 ? multiply_all<true>(of) : multiply_all<false>(of); }

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
