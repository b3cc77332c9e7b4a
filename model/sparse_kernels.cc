#include "model/sparse_kernels.h"

#include <algorithm>
#include <cassert>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/sparse_kernels.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, 16>;  // a tile of tokens is four of the widest
using V = hn::Vec<D>;

// Eight sums at most are in registers, whatever the height: enough to hide the latency of an addition, and few enough for 16
// registers. A value is broadcast once for all tokens of a step, a feature loaded once for all rows of a strip.

/// Rows of height 1: four vectors of tokens.
HWY_INLINE void add_single(const StripRun& run, const float* x, float* sums) {
  const D d;
  const size_t n = hn::Lanes(d);
  for (size_t s = 0; s + 1 < run.ends.size(); ++s, sums += tile_tokens) {
    V a = hn::LoadU(d, sums), b = hn::LoadU(d, sums + n), c = hn::LoadU(d, sums + 2 * n), e = hn::LoadU(d, sums + 3 * n);
    for (uint32_t k = run.ends[s]; k < run.ends[s + 1]; ++k) {
      const float* feature = x + run.columns[k] * tile_tokens;
      const V value = hn::Set(d, run.values[k]);
      a = hn::MulAdd(value, hn::LoadU(d, feature), a);
      b = hn::MulAdd(value, hn::LoadU(d, feature + n), b);
      c = hn::MulAdd(value, hn::LoadU(d, feature + 2 * n), c);
      e = hn::MulAdd(value, hn::LoadU(d, feature + 3 * n), e);
    }
    hn::StoreU(a, d, sums), hn::StoreU(b, d, sums + n), hn::StoreU(c, d, sums + 2 * n), hn::StoreU(e, d, sums + 3 * n);
  }
}

/// Pairs of rows: two vectors of tokens for each.
HWY_INLINE void add_pairs(const StripRun& run, const float* x, float* sums) {
  const D d;
  const size_t n = hn::Lanes(d);
  for (size_t s = 0; s + 1 < run.ends.size(); ++s, sums += 2 * tile_tokens) {
    float* second = sums + tile_tokens;
    V a0 = hn::LoadU(d, sums), a1 = hn::LoadU(d, sums + n);
    V b0 = hn::LoadU(d, second), b1 = hn::LoadU(d, second + n);
    for (uint32_t k = run.ends[s]; k < run.ends[s + 1]; ++k) {
      const float* feature = x + run.columns[k] * tile_tokens;
      const V x0 = hn::LoadU(d, feature), x1 = hn::LoadU(d, feature + n);
      const V first_value = hn::Set(d, run.values[2 * size_t{k}]), second_value = hn::Set(d, run.values[2 * size_t{k} + 1]);
      a0 = hn::MulAdd(first_value, x0, a0), a1 = hn::MulAdd(first_value, x1, a1);
      b0 = hn::MulAdd(second_value, x0, b0), b1 = hn::MulAdd(second_value, x1, b1);
    }
    hn::StoreU(a0, d, sums), hn::StoreU(a1, d, sums + n);
    hn::StoreU(b0, d, second), hn::StoreU(b1, d, second + n);
  }
}

/// Fours of rows: two vectors of tokens for each.
HWY_INLINE void add_fours(const StripRun& run, const float* x, float* sums) {
  const D d;
  const size_t n = hn::Lanes(d);
  for (size_t s = 0; s + 1 < run.ends.size(); ++s, sums += 4 * tile_tokens) {
    float *second = sums + tile_tokens, *third = second + tile_tokens, *fourth = third + tile_tokens;
    V a0 = hn::LoadU(d, sums), a1 = hn::LoadU(d, sums + n), b0 = hn::LoadU(d, second), b1 = hn::LoadU(d, second + n);
    V c0 = hn::LoadU(d, third), c1 = hn::LoadU(d, third + n), e0 = hn::LoadU(d, fourth), e1 = hn::LoadU(d, fourth + n);
    for (uint32_t k = run.ends[s]; k < run.ends[s + 1]; ++k) {
      const float* feature = x + run.columns[k] * tile_tokens;
      const float* value = run.values + 4 * size_t{k};
      const V x0 = hn::LoadU(d, feature), x1 = hn::LoadU(d, feature + n);
      const V va = hn::Set(d, value[0]), vb = hn::Set(d, value[1]), vc = hn::Set(d, value[2]), ve = hn::Set(d, value[3]);
      a0 = hn::MulAdd(va, x0, a0), a1 = hn::MulAdd(va, x1, a1);
      b0 = hn::MulAdd(vb, x0, b0), b1 = hn::MulAdd(vb, x1, b1);
      c0 = hn::MulAdd(vc, x0, c0), c1 = hn::MulAdd(vc, x1, c1);
      e0 = hn::MulAdd(ve, x0, e0), e1 = hn::MulAdd(ve, x1, e1);
    }
    hn::StoreU(a0, d, sums), hn::StoreU(a1, d, sums + n), hn::StoreU(b0, d, second), hn::StoreU(b1, d, second + n);
    hn::StoreU(c0, d, third), hn::StoreU(c1, d, third + n), hn::StoreU(e0, d, fourth), hn::StoreU(e1, d, fourth + n);
  }
}

void add_strips(const StripRun& run, const float* x, int64_t tokens, float* sums) {
  const auto step = static_cast<int64_t>(hn::Lanes(D{})) * (run.height == 1 ? 4 : 2);
  for (int64_t first = 0; first < tokens; first += step) {
    if (run.height == 1) add_single(run, x + first, sums + first);
    else if (run.height == 2) add_pairs(run, x + first, sums + first);
    else add_fours(run, x + first, sums + first);
  }
}

#if HWY_TARGET == HWY_SCALAR
constexpr size_t square = 1;
HWY_INLINE void transpose_square(const float* from, size_t, float* to, size_t) { *to = *from; }
#else
constexpr size_t square = 4;

HWY_INLINE void transpose_square(const float* from, size_t from_stride, float* to, size_t to_stride) {
  const hn::FixedTag<float, 4> d;
  const hn::RepartitionToWide<decltype(d)> pairs;
  const auto row0 = hn::LoadU(d, from), row1 = hn::LoadU(d, from + from_stride), row2 = hn::LoadU(d, from + 2 * from_stride), row3 = hn::LoadU(d, from + 3 * from_stride);
  const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(d, row0, row1)), low23 = hn::BitCast(pairs, hn::InterleaveLower(d, row2, row3));
  const auto high01 = hn::BitCast(pairs, hn::InterleaveUpper(d, row0, row1)), high23 = hn::BitCast(pairs, hn::InterleaveUpper(d, row2, row3));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, low01, low23)), d, to);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, low01, low23)), d, to + to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, high01, high23)), d, to + 2 * to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, high01, high23)), d, to + 3 * to_stride);
}
#endif

/// Square by square, sixteen columns (a cache line of the source) at a time.
void transpose(const float* from, size_t rows, size_t cols, size_t from_stride, float* to, size_t to_stride) {
  constexpr size_t line = 16;
  const size_t whole_rows = rows - rows % square, whole_cols = cols - cols % square;
  for (size_t first = 0; first < whole_cols; first += line)
    for (size_t r = 0; r < whole_rows; r += square)
      for (size_t c = first; c < std::min(whole_cols, first + line); c += square) transpose_square(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c) to[c * to_stride + r] = from[r * from_stride + c];
}

void add_not_finite(const float* x, int64_t features, float* sums) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t t = 0; t < tile_tokens; t += lanes) {
    V sum = hn::LoadU(d, sums + t);
    for (int64_t f = 0; f < features; ++f) sum = hn::MulAdd(hn::LoadU(d, x + f * tile_tokens + t), hn::Zero(d), sum);
    hn::StoreU(sum, d, sums + t);
  }
}

void start_sums(const float* bias, const float* start, int64_t rows, float* sums) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; ++r) {
    const V value = hn::Set(d, bias ? bias[r] : 0.0f);
    for (int64_t t = 0; t < tile_tokens; t += lanes) hn::StoreU(hn::Add(value, hn::LoadU(d, start + t)), d, sums + r * tile_tokens + t);
  }
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmc {

HWY_EXPORT(add_strips);
HWY_EXPORT(transpose);
HWY_EXPORT(add_not_finite);
HWY_EXPORT(start_sums);

void add_strips(const StripRun& run, const float* x, int64_t tokens, float* sums) {
  assert((run.height == 1 || run.height == 2 || run.height == 4) && tokens <= tile_tokens);
  HWY_DYNAMIC_DISPATCH(add_strips)(run, x, tokens, sums);
}

void transpose(ConstMatrixView from, MatrixView to) {
  assert(from.rows == to.cols && from.cols == to.rows);
  HWY_DYNAMIC_DISPATCH(transpose)(from.data, static_cast<size_t>(from.rows), static_cast<size_t>(from.cols), static_cast<size_t>(from.stride), to.data, static_cast<size_t>(to.stride));
}

void add_not_finite(const float* x, int64_t features, float* sums) { HWY_DYNAMIC_DISPATCH(add_not_finite)(x, features, sums); }

void start_sums(const float* bias, const float* start, int64_t rows, float* sums) { HWY_DYNAMIC_DISPATCH(start_sums)(bias, start, rows, sums); }

}  // namespace llmc
#endif
