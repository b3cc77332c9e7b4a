// What the AMX and AVX-512 instructions of model/amx_blocks.cc do, in plain loops, so that the code around them is tested on processors without them
// (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). Found by <immintrin.h> in tests/emulation/amx.cc alone.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

struct __m256i {
  std::array<uint16_t, 16> words;
};
struct __m512 {
  std::array<float, 16> values;
};
struct __m512i {
  std::array<uint32_t, 16> values;
};
struct __m512bh {
  std::array<uint16_t, 32> words;
};
using __mmask16 = uint16_t;
constexpr int _MM_HINT_T1 = 2;

namespace emulation {

template <typename To, typename From>
To cast(const From& from) {
  static_assert(sizeof(To) >= sizeof(From) || sizeof(To) * 2 == sizeof(From));
  To to{};
  std::memcpy(&to, &from, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
  return to;
}
template <typename T>
T load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}
/// Of each lane of 128 bits two units of `unit` bytes, from place `first` on, of a and b in turn.
inline __m512i unpack(const __m512i& a, const __m512i& b, size_t unit, size_t first) {
  __m512i result;
  auto* to = reinterpret_cast<std::byte*>(&result);
  for (size_t lane = 0; lane < 64; lane += 16)
    for (size_t at = lane + first; at < lane + first + 8; at += unit)
      for (const __m512i* from : {&a, &b}) std::memcpy(to, reinterpret_cast<const std::byte*>(from) + at, unit), to += unit;
  return result;
}
template <typename Function>
__m512 combine(const __m512& a, const __m512& b, Function function) {
  __m512 result;
  for (size_t i = 0; i < 16; ++i) result.values[i] = function(a.values[i], b.values[i]);
  return result;
}

using Tile = std::array<std::array<std::byte, 64>, 16>;
inline thread_local std::array<Tile, 8> tiles;

/// The numbers of a tile that come first in a pair, and those that come second.
using Halves = std::array<std::array<std::array<float, 16>, 16>, 2>;
inline Halves widen(const Tile& tile) {
  Halves result;
  for (size_t r = 0; r < 16; ++r)
    for (size_t i = 0; i < 32; ++i) result[i % 2][r][i / 2] = std::bit_cast<float>(uint32_t{load<uint16_t>(&tile[r][2 * i])} << 16);
  return result;
}

/// Products are exact in f32's range; the sums are those of the even and of the odd numbers, as in the manual. Subnormal numbers are not zero here.
inline void multiply(size_t to, size_t a, size_t b) {
  const Halves x = widen(tiles[a]), y = widen(tiles[b]);
  for (size_t m = 0; m < 16; ++m) {
    std::array<float, 16> even{}, odd{};
    for (size_t k = 0; k < 16; ++k)
      for (size_t n = 0; n < 16; ++n) even[n] += x[0][m][k] * y[0][k][n], odd[n] += x[1][m][k] * y[1][k][n];
    auto sums = load<std::array<float, 16>>(&tiles[to][m]);
    for (size_t n = 0; n < 16; ++n) sums[n] += even[n] + odd[n];
    std::memcpy(&tiles[to][m], &sums, sizeof sums);
  }
}

}  // namespace emulation

inline void _tile_loadconfig(const void*) {}
inline void _tile_release() {}
inline void _tile_zero(size_t tile) { emulation::tiles[tile] = {}; }
inline void _tile_loadd(size_t tile, const void* from, size_t stride) {
  for (size_t r = 0; r < 16; ++r) std::memcpy(emulation::tiles[tile][r].data(), static_cast<const std::byte*>(from) + r * stride, 64);
}
inline void _tile_stream_loadd(size_t tile, const void* from, size_t stride) { _tile_loadd(tile, from, stride); }
inline void _tile_stored(size_t tile, void* to, size_t stride) {
  for (size_t r = 0; r < 16; ++r) std::memcpy(static_cast<std::byte*>(to) + r * stride, emulation::tiles[tile][r].data(), 64);
}
inline void _tile_dpbf16ps(size_t to, size_t a, size_t b) { emulation::multiply(to, a, b); }

inline void _mm_prefetch(const void*, int) {}
inline __m512 _mm512_setzero_ps() { return {}; }
inline __m512i _mm512_setzero_si512() { return {}; }
inline __m512 _mm512_set1_ps(float value) {
  __m512 result;
  result.values.fill(value);
  return result;
}
inline __m512i _mm512_set1_epi32(int value) {
  __m512i result;
  result.values.fill(static_cast<uint32_t>(value));
  return result;
}
inline __m512i _mm512_set1_epi16(int value) { return _mm512_set1_epi32(value << 16 | value); }
/// The highest first.
template <typename... Words>
__m512i _mm512_set_epi16(Words... words) {
  static_assert(sizeof...(words) == 32);
  std::array<uint16_t, 32> result;
  size_t at = 32;
  ((result[--at] = static_cast<uint16_t>(words)), ...);
  return emulation::cast<__m512i>(result);
}
inline __m512 _mm512_loadu_ps(const void* from) { return emulation::load<__m512>(from); }
inline __m512 _mm512_load_ps(const void* from) { return emulation::load<__m512>(from); }
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const float* from) {
  __m512 result{};
  for (size_t i = 0; i < 16; ++i)
    if (mask >> i & 1) result.values[i] = from[i];
  return result;
}
inline void _mm512_mask_storeu_ps(float* to, __mmask16 mask, const __m512& v) {
  for (size_t i = 0; i < 16; ++i)
    if (mask >> i & 1) to[i] = v.values[i];
}
inline void _mm512_store_si512(void* to, const __m512i& v) { std::memcpy(to, &v, sizeof v); }
inline __m512 _mm512_add_ps(const __m512& a, const __m512& b) {
  return emulation::combine(a, b, [](float x, float y) { return x + y; });
}
inline __m512 _mm512_sub_ps(const __m512& a, const __m512& b) {
  return emulation::combine(a, b, [](float x, float y) { return x - y; });
}
inline __m512 _mm512_mul_ps(const __m512& a, const __m512& b) {
  return emulation::combine(a, b, [](float x, float y) { return x * y; });
}
inline __m512bh _mm512_cvtne2ps_pbh(const __m512& high, const __m512& low) {
  __m512bh result;
  for (size_t i = 0; i < 16; ++i) result.words[i] = llmc::f32_to_bf16(low.values[i]), result.words[16 + i] = llmc::f32_to_bf16(high.values[i]);
  return result;
}
inline __m512 _mm512_castsi512_ps(const __m512i& v) { return emulation::cast<__m512>(v); }
inline __m512i _mm512_castps_si512(const __m512& v) { return emulation::cast<__m512i>(v); }
inline __m256i _mm512_castsi512_si256(const __m512i& v) { return emulation::cast<__m256i>(v); }
inline __m256i _mm512_extracti64x4_epi64(const __m512i& v, int half) { return emulation::load<__m256i>(reinterpret_cast<const std::byte*>(&v) + 32 * half); }
inline __m512i _mm512_cvtepu16_epi32(const __m256i& v) {
  __m512i result;
  for (size_t i = 0; i < 16; ++i) result.values[i] = v.words[i];
  return result;
}
inline __m512i _mm512_slli_epi32(__m512i v, unsigned count) {
  for (uint32_t& value : v.values) value <<= count;
  return v;
}
inline __m512i _mm512_or_si512(__m512i a, const __m512i& b) {
  for (size_t i = 0; i < 16; ++i) a.values[i] |= b.values[i];
  return a;
}
inline __m512i _mm512_add_epi16(const __m512i& a, const __m512i& b) {
  auto x = emulation::cast<__m512bh>(a);
  const auto y = emulation::cast<__m512bh>(b);
  for (size_t i = 0; i < 32; ++i) x.words[i] = static_cast<uint16_t>(x.words[i] + y.words[i]);
  return emulation::cast<__m512i>(x);
}
inline __mmask16 _mm512_test_epi32_mask(const __m512i& a, const __m512i& b) {
  unsigned mask = 0;
  for (size_t i = 0; i < 16; ++i) mask |= static_cast<unsigned>((a.values[i] & b.values[i]) != 0) << i;
  return static_cast<__mmask16>(mask);
}
inline __m512i _mm512_unpacklo_epi32(const __m512i& a, const __m512i& b) { return emulation::unpack(a, b, 4, 0); }
inline __m512i _mm512_unpackhi_epi32(const __m512i& a, const __m512i& b) { return emulation::unpack(a, b, 4, 8); }
inline __m512i _mm512_unpacklo_epi64(const __m512i& a, const __m512i& b) { return emulation::unpack(a, b, 8, 0); }
inline __m512i _mm512_unpackhi_epi64(const __m512i& a, const __m512i& b) { return emulation::unpack(a, b, 8, 8); }
/// Lanes of 128 bits: two of a, then two of b.
inline __m512i _mm512_shuffle_i32x4(const __m512i& a, const __m512i& b, int lanes) {
  __m512i result;
  for (size_t i = 0; i < 4; ++i) std::memcpy(&result.values[4 * i], &(i < 2 ? a : b).values[4 * static_cast<size_t>(lanes >> 2 * i & 3)], 16);
  return result;
}
inline __m512i _mm512_permutex2var_epi16(const __m512i& a, const __m512i& places, const __m512i& b) {
  const auto x = emulation::cast<__m512bh>(a), y = emulation::cast<__m512bh>(b), from = emulation::cast<__m512bh>(places);
  __m512bh result;
  for (size_t i = 0; i < 32; ++i) result.words[i] = (from.words[i] & 32 ? y : x).words[from.words[i] & 31];
  return emulation::cast<__m512i>(result);
}
