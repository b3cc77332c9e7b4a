#include "passes/lane_transpose.h"

// See block_lanes.cc.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/lane_transpose.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cassert>

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

constexpr size_t quad = 4;
constexpr std::array<float, Block::most_weights> zeros = {};

#if HWY_TARGET == HWY_SCALAR

void to_lanes(std::span<const float* const> rows, size_t count, float* lanes) {
  for (size_t i = 0; i < count; ++i)
    for (size_t lane = 0; lane < block_lanes; ++lane) lanes[i * block_lanes + lane] = lane < rows.size() ? rows[lane][i] : 0;
}

void from_lanes(const uint8_t* lanes, size_t count, std::span<uint8_t* const> rows) {
  for (size_t lane = 0; lane < rows.size(); ++lane)
    for (size_t i = 0; i < count; ++i) rows[lane][i] = lanes[i * block_lanes + lane];
}

#else

namespace hn = hwy::HWY_NAMESPACE;

/// Four floats of every fourth row from the first on, row after row.
template <class D>
HWY_INLINE hn::Vec<D> load_quads(D d, const float* const* rows, size_t i) {
  if constexpr (hn::MaxLanes(d) == quad) return hn::LoadU(d, *rows + i);
  else {
    const hn::Half<D> half;
    return hn::Combine(d, load_quads(half, rows + hn::MaxLanes(half), i), load_quads(half, rows, i));
  }
}

void to_lanes(std::span<const float* const> rows, size_t count, float* lanes) {
  const hn::CappedTag<float, block_lanes> d;
  std::array<const float*, block_lanes> from;
  from.fill(zeros.data());
  std::ranges::copy(rows, from.begin());
  for (size_t lane = 0; lane < block_lanes; lane += hn::MaxLanes(d))
    for (size_t i = 0; i < count; i += quad) {
      const float* const* first = from.data() + lane;
      const auto a = load_quads(d, first, i), b = load_quads(d, first + 1, i), c = load_quads(d, first + 2, i), e = load_quads(d, first + 3, i);
      const auto low = hn::InterleaveLower(d, a, c), low_next = hn::InterleaveLower(d, b, e), high = hn::InterleaveUpper(d, a, c), high_next = hn::InterleaveUpper(d, b, e);
      float* to = lanes + i * block_lanes + lane;
      hn::Store(hn::InterleaveLower(d, low, low_next), d, to);
      hn::Store(hn::InterleaveUpper(d, low, low_next), d, to + block_lanes);
      hn::Store(hn::InterleaveLower(d, high, high_next), d, to + 2 * block_lanes);
      hn::Store(hn::InterleaveUpper(d, high, high_next), d, to + 3 * block_lanes);
    }
}

void from_lanes(const uint8_t* lanes, size_t count, std::span<uint8_t* const> rows) {
  const hn::CappedTag<uint8_t, block_lanes> d;
  for (size_t i = 0; i < count; i += block_lanes) {
    // Four rounds of interleaving row r with row r + 8 transpose 16 rows of 16.
    hn::Vec<decltype(d)> from[block_lanes], to[block_lanes];
    for (size_t r = 0; r < block_lanes; ++r) from[r] = hn::LoadU(d, lanes + (i + r) * block_lanes);
    for (int round = 0; round < 4; ++round) {
      for (size_t r = 0; r < block_lanes / 2; ++r) {
        to[2 * r] = hn::InterleaveLower(d, from[r], from[r + block_lanes / 2]);
        to[2 * r + 1] = hn::InterleaveUpper(d, from[r], from[r + block_lanes / 2]);
      }
      std::copy(to, to + block_lanes, from);
    }
    for (size_t lane = 0; lane < rows.size(); ++lane) hn::StoreU(from[lane], d, rows[lane] + i);
  }
}

#endif

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmc {
namespace {

HWY_EXPORT(to_lanes);
HWY_EXPORT(from_lanes);

}  // namespace

void to_lanes(std::span<const float* const> rows, size_t count, float* lanes) {
  assert(rows.size() <= block_lanes && count % block_lanes == 0 && count <= Block::most_weights);
  HWY_DYNAMIC_DISPATCH(to_lanes)(rows, count, lanes);
}

void from_lanes(const uint8_t* lanes, size_t count, std::span<uint8_t* const> rows) {
  assert(rows.size() <= block_lanes && count % block_lanes == 0);
  HWY_DYNAMIC_DISPATCH(from_lanes)(lanes, count, rows);
}

}  // namespace llmc
#endif
