#ifdef __x86_64__
#include "model/amx_blocks.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC's own header makes undefined vectors so
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstring>

#ifndef LLMC_AMX  // or emulated, in tests/emulation/amx.cc
#define LLMC_AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#endif

namespace llmc::amx {
namespace {

LLMC_AMX void configure() {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  static constexpr Configuration configuration;
  asm volatile("" ::: "memory");  // what tiles are to read is written before: their loads do not tell the compiler that they read
  _tile_loadconfig(&configuration);
}

LLMC_AMX void release() { _tile_release(); }

/// sums [32, 32] = A · B of so many steps, or += where they are not the first. With `few` rows the lower half is left alone.
template <int parts_a, int parts_b, bool few>
LLMC_AMX void multiply_block(const uint16_t* a, const uint16_t* b, int64_t steps, Ahead ahead, bool is_first, float* sums) {
  constexpr int row = 64, sums_row = block * sizeof(float);
  if (is_first) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (!few) {
      _tile_zero(2);
      _tile_zero(3);
    }
  } else {
    _tile_loadd(0, sums, sums_row);
    _tile_loadd(1, sums + 16, sums_row);
    if constexpr (!few) {
      _tile_loadd(2, sums + 16 * block, sums_row);
      _tile_loadd(3, sums + 16 * block + 16, sums_row);
    }
  }
// Tiles are named by literals alone, so that these are no functions. Where a step takes each part of A once, A goes by, and B
// stays in the first-level cache.
#define LLMC_LOAD(number, from)                                     \
  if constexpr (parts_b == 1) _tile_stream_loadd(number, from, row); \
  else _tile_loadd(number, from, row);
#define LLMC_LOAD_A(part)               \
  LLMC_LOAD(4, a + (part) * step_size) \
  if constexpr (!few) {                 \
    LLMC_LOAD(5, a + (part) * step_size + tile) \
  }
#define LLMC_LOAD_B(part)                      \
  _tile_loadd(6, b + (part) * step_size, row); \
  _tile_loadd(7, b + (part) * step_size + tile, row);
#define LLMC_ADD_PRODUCTS() \
  _tile_dpbf16ps(0, 4, 6);  \
  _tile_dpbf16ps(1, 4, 7);  \
  if constexpr (!few) {     \
    _tile_dpbf16ps(2, 5, 6); \
    _tile_dpbf16ps(3, 5, 7); \
  }
  for (int64_t step = 0; step < steps; ++step, a += parts_a * step_size, b += parts_b * step_size) {
    LLMC_LOAD_A(0) LLMC_LOAD_B(0)
    for (int64_t i = 0; i < ahead.lines; ++i, ahead.next += line) _mm_prefetch(ahead.next, _MM_HINT_T1);
    LLMC_ADD_PRODUCTS()
    if constexpr (parts_a > 1) {
      LLMC_LOAD_A(1) LLMC_ADD_PRODUCTS()
      LLMC_LOAD_A(2) LLMC_ADD_PRODUCTS()
    }
    if constexpr (parts_b > 1) {
      LLMC_LOAD_B(1) LLMC_LOAD_A(1) LLMC_ADD_PRODUCTS()
      LLMC_LOAD_A(0) LLMC_ADD_PRODUCTS()
    }
    if constexpr (parts_b > 2) {
      LLMC_LOAD_B(2) LLMC_ADD_PRODUCTS()
    }
  }
#undef LLMC_LOAD
#undef LLMC_LOAD_A
#undef LLMC_LOAD_B
#undef LLMC_ADD_PRODUCTS
  _tile_stored(0, sums, sums_row);
  _tile_stored(1, sums + 16, sums_row);
  if constexpr (!few) {
    _tile_stored(2, sums + 16 * block, sums_row);
    _tile_stored(3, sums + 16 * block + 16, sums_row);
  }
}

template <int parts_a, int parts_b>
constexpr BlockProducts products_of{multiply_block<parts_a, parts_b, false>, multiply_block<parts_a, parts_b, true>};

/// The next 32 numbers of a row, of which `count` are there and the others zero.
struct Numbers {
  __m512 low, high;
};
LLMC_AMX inline Numbers load(const float* x, int64_t count) {
  if (count >= depth) return {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)};
  const uint32_t mask = (uint32_t{1} << count) - 1;
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x), _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + 16)};
}

/// The nearest bf16 numbers.
LLMC_AMX inline __m512i narrow(const Numbers& x) {
  const __m512bh nearest = _mm512_cvtne2ps_pbh(x.high, x.low);
  __m512i words;
  std::memcpy(&words, &nearest, sizeof words);
  return words;
}

LLMC_AMX inline __m512 widen(__m256i words) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16)); }

/// What they leave of x, without error.
LLMC_AMX inline Numbers subtract(const Numbers& x, __m512i words) {
  return {_mm512_sub_ps(x.low, widen(_mm512_castsi512_si256(words))), _mm512_sub_ps(x.high, widen(_mm512_extracti64x4_epi64(words, 1)))};
}

template <int parts>
LLMC_AMX void pack_rows_in(ConstMatrixView x, uint16_t* out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    uint16_t* to = out + r * depth;
    for (int64_t k = 0; k < x.cols; k += depth, to += parts * step_size) {
      Numbers numbers = load(x.row(r) + k, x.cols - k);
      for (int part = 0; part < parts; ++part) {
        const __m512i words = narrow(numbers);
        _mm512_store_si512(to + part * step_size, words);
        if (part + 1 < parts) numbers = subtract(numbers, words);
      }
    }
  }
}

/// The transpose of 16 × 16 pairs of bf16 numbers.
LLMC_AMX inline void store_transposed(const __m512i (&rows)[16], uint16_t* out) {
  __m512i pairs[16], fours[16];
  for (int i = 0; i < 16; i += 2) pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]), pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  for (int i = 0; i < 16; i += 4) {
    fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]), fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]), fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {  // of four rows each, the columns i, 4 + i, 8 + i and 12 + i
    const __m512i front_low = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0x44), front_high = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0xEE);
    const __m512i back_low = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0x44), back_high = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0xEE);
    _mm512_store_si512(out + i * depth, _mm512_shuffle_i32x4(front_low, back_low, 0x88));
    _mm512_store_si512(out + (4 + i) * depth, _mm512_shuffle_i32x4(front_low, back_low, 0xDD));
    _mm512_store_si512(out + (8 + i) * depth, _mm512_shuffle_i32x4(front_high, back_high, 0x88));
    _mm512_store_si512(out + (12 + i) * depth, _mm512_shuffle_i32x4(front_high, back_high, 0xDD));
  }
}

/// y = alpha · sums + bias, or y += that.
template <bool adds>
LLMC_AMX void finish(float alpha, const float* sums, const float* bias, const MatrixView& y) {
  const __m512 factor = _mm512_set1_ps(alpha), low = _mm512_loadu_ps(bias), high = _mm512_loadu_ps(bias + 16);
  const uint32_t mask = y.cols >= block ? ~uint32_t{0} : (uint32_t{1} << y.cols) - 1;
  const auto finish_half = [&](__mmask16 columns, const float* of, __m512 offset, float* out) LLMC_AMX {
    __m512 values = _mm512_add_ps(_mm512_mul_ps(factor, _mm512_load_ps(of)), offset);
    if constexpr (adds) values = _mm512_add_ps(_mm512_maskz_loadu_ps(columns, out), values);
    _mm512_mask_storeu_ps(out, columns, values);
  };
  for (int64_t r = 0; r < y.rows; ++r, sums += block) {
    finish_half(static_cast<__mmask16>(mask), sums, low, y.row(r));
    finish_half(static_cast<__mmask16>(mask >> 16), sums + 16, high, y.row(r) + 16);
  }
}

}  // namespace

Tiles::Tiles() { configure(); }
Tiles::~Tiles() { release(); }

const BlockProducts& find_products(int parts_a, int parts_b) {
  static constexpr const BlockProducts* of_f32[] = {&products_of<3, 1>, &products_of<3, 2>, &products_of<3, 3>};
  return parts_a == 1 ? products_of<1, 1> : *of_f32[parts_b - 1];
}

void pack_rows(ConstMatrixView x, int parts, uint16_t* out) { parts == 1 ? pack_rows_in<1>(x, out) : pack_rows_in<max_parts>(x, out); }

LLMC_AMX void pack_columns(ConstMatrixView weight, int parts, uint16_t* out) {
  for (int64_t k = 0; k < weight.cols; k += depth, out += parts * step_size)
    for (int64_t first = 0; first < block; first += 16) {
      __m512i split[max_parts][16];
      for (int64_t r = 0; r < 16; ++r) {
        Numbers numbers{_mm512_setzero_ps(), _mm512_setzero_ps()};
        if (first + r < weight.rows) numbers = load(weight.row(first + r) + k, weight.cols - k);
        for (int part = 0; part < parts; ++part) {
          split[part][r] = narrow(numbers);
          if (part + 1 < parts) numbers = subtract(numbers, split[part][r]);
        }
      }
      for (int part = 0; part < parts; ++part) store_transposed(split[part], out + part * step_size + first / 16 * tile);
    }
}

LLMC_AMX void pack_untransposed(ConstMatrixView matrix, int64_t first, int parts, uint16_t* out) {
  // Words of two rows in turn, of the first 16 columns and of the others.
  const __m512i front = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i back = _mm512_add_epi16(front, _mm512_set1_epi16(16));
  const auto load_row = [&](int64_t r) LLMC_AMX -> Numbers { return r < matrix.rows ? load(matrix.row(r) + first, matrix.cols - first) : Numbers{_mm512_setzero_ps(), _mm512_setzero_ps()}; };
  for (int64_t k = 0; k < matrix.rows; k += depth, out += parts * step_size)
    for (int64_t pair = 0; pair < 16; ++pair) {
      Numbers even = load_row(k + 2 * pair), odd = load_row(k + 2 * pair + 1);
      for (int part = 0; part < parts; ++part) {
        const __m512i even_words = narrow(even), odd_words = narrow(odd);
        _mm512_store_si512(out + part * step_size + pair * depth, _mm512_permutex2var_epi16(even_words, front, odd_words));
        _mm512_store_si512(out + part * step_size + tile + pair * depth, _mm512_permutex2var_epi16(even_words, back, odd_words));
        if (part + 1 < parts) even = subtract(even, even_words), odd = subtract(odd, odd_words);
      }
    }
}

LLMC_AMX int count_parts(std::span<const float> values) {
  __m512i beyond_one = _mm512_setzero_si512(), beyond_two = beyond_one;
  for (size_t i = 0; i < values.size(); i += 32) {
    const Numbers numbers = load(values.data() + i, static_cast<int64_t>(values.size() - i));
    const Numbers rest = subtract(numbers, narrow(numbers));
    beyond_one = _mm512_or_si512(beyond_one, _mm512_or_si512(_mm512_castps_si512(numbers.low), _mm512_castps_si512(numbers.high)));
    beyond_two = _mm512_or_si512(beyond_two, _mm512_or_si512(_mm512_castps_si512(rest.low), _mm512_castps_si512(rest.high)));
  }
  const __m512i lower_half = _mm512_set1_epi32(0xffff);
  if (_mm512_test_epi32_mask(beyond_two, lower_half)) return 3;
  return _mm512_test_epi32_mask(beyond_one, lower_half) ? 2 : 1;
}

void finish_block(float alpha, const float* sums, const float* bias, const MatrixView& y) { finish<false>(alpha, sums, bias, y); }
void add_block(float alpha, const float* sums, const float* bias, const MatrixView& y) { finish<true>(alpha, sums, bias, y); }

}  // namespace llmc::amx

#endif
