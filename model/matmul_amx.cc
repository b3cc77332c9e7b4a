#ifdef __x86_64__
#include "model/matmul_amx.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC's own header makes undefined vectors so
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>

#include "core/parallel.h"
#include "core/pooled_memory.h"

#define LLMC_AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

namespace llmc {
namespace {

// A tile of A is 16 rows of 32 numbers, one of B 16 pairs of rows of 16 columns (Intel 64 and IA-32 Architectures Software
// Developer's Manual, TDPBF16PS). A step multiplies 2 tiles of each into the 2 × 2 tiles of a block of the result. Operands
// are packed so that the tiles lie in memory in the order in which they are read.
constexpr int64_t block = 32;            ///< rows and columns of a block
constexpr int64_t depth = 32;            ///< numbers of a row in a step
constexpr int64_t tile = 16 * depth;     ///< bf16 numbers in a tile, 1 KiB
constexpr int64_t step_size = 2 * tile;  ///< of one part of an operand
constexpr int64_t line = 32;             ///< bf16 numbers in a cache line
constexpr int max_parts = 3;

int64_t count_blocks(int64_t rows) { return (rows + block - 1) / block; }

/// Configured for as long as it lives, on this thread.
class Tiles {
 public:
  LLMC_AMX Tiles() {
    struct alignas(64) Configuration {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static constexpr Configuration configuration;
    asm volatile("" ::: "memory");  // what tiles are to read is written before: their loads do not tell the compiler that they read
    _tile_loadconfig(&configuration);
  }
  LLMC_AMX ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

/// What is to be in the second-level cache next, and how much of it (in cache lines) a step is to ask for.
struct Ahead {
  const uint16_t* next;
  int64_t lines;
};

/// sums [32, 32] = A · B of so many steps. With `few` rows the lower half is left alone.
template <int parts_a, int parts_b, bool few>
LLMC_AMX void multiply_block(const uint16_t* a, const uint16_t* b, int64_t steps, Ahead ahead, float* sums) {
  constexpr int row = 64, sums_row = block * sizeof(float);
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (!few) {
    _tile_zero(2);
    _tile_zero(3);
  }
// Tiles are named by literals alone, so that these are no functions.
#define LLMC_LOAD_A(part)                      \
  _tile_loadd(4, a + (part) * step_size, row); \
  if constexpr (!few) {                        \
    _tile_loadd(5, a + (part) * step_size + tile, row); \
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

using BlockProduct = void (*)(const uint16_t*, const uint16_t*, int64_t, Ahead, float*);
struct BlockProducts {
  BlockProduct whole, few;
};
template <int parts_a, int parts_b>
constexpr BlockProducts products_of{multiply_block<parts_a, parts_b, false>, multiply_block<parts_a, parts_b, true>};

const BlockProducts& find_products(int parts_a, int parts_b) {
  static constexpr const BlockProducts* of_f32[] = {&products_of<3, 1>, &products_of<3, 2>, &products_of<3, 3>};
  return parts_a == 1 ? products_of<1, 1> : *of_f32[parts_b - 1];
}

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

/// At most 32 rows as the A of a product. The rows of the last tile that are not there keep what they held: they concern no others.
template <int parts>
LLMC_AMX void pack_rows(ConstMatrixView x, uint16_t* out) {
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

/// At most 32 rows of a weight as the B of a product, whose columns they are.
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

/// 32 columns of a matrix, from `first` on, as the B of a product.
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

/// How many parts they have.
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

/// y = alpha · sums + bias, for at most 32 rows and columns of a block.
LLMC_AMX void finish_block(float alpha, const float* sums, const float* bias, MatrixView y) {
  const __m512 factor = _mm512_set1_ps(alpha), low = _mm512_loadu_ps(bias), high = _mm512_loadu_ps(bias + 16);
  const uint32_t mask = y.cols >= block ? ~uint32_t{0} : (uint32_t{1} << y.cols) - 1;
  for (int64_t r = 0; r < y.rows; ++r, sums += block) {
    _mm512_mask_storeu_ps(y.row(r), static_cast<__mmask16>(mask), _mm512_add_ps(_mm512_mul_ps(factor, _mm512_load_ps(sums)), low));
    _mm512_mask_storeu_ps(y.row(r) + 16, static_cast<__mmask16>(mask >> 16), _mm512_add_ps(_mm512_mul_ps(factor, _mm512_load_ps(sums + 16)), high));
  }
}

/// B [depth, columns] of products C = alpha · A · B.
class Factor {
 public:
  Factor(int64_t rows, int64_t columns, int parts, Precision precision)
      : steps_((rows + depth - 1) / depth), columns_(columns), parts_(parts), parts_a_(precision == Precision::f32 ? max_parts : 1), products_(find_products(parts_a_, parts)), packed_(static_cast<size_t>(count_blocks(columns) * panel_size()) * sizeof(uint16_t)) {}

  /// 32 columns in the layout [steps][parts][2 tiles], to be packed before the first product.
  uint16_t* panel(int64_t number) const { return packed_.as<uint16_t>() + number * panel_size(); }
  int64_t panels() const { return count_blocks(columns_); }
  int parts() const { return parts_; }
  /// bf16 numbers that a row of A takes up.
  int64_t packed_row() const { return steps_ * depth * parts_a_; }

  /// Of the rows of B from `row` on, as many as A has columns, and the columns from `column` on, as many as C has: multiples of 32.
  void multiply(float alpha, ConstMatrixView a, int64_t row, int64_t column, const float* bias, MatrixView c) const {
    const int64_t steps = (a.cols + depth - 1) / depth, row_block = steps * parts_a_ * step_size;
    const std::span<uint16_t> scratch = thread_scratch<uint16_t, 7>(static_cast<size_t>(count_blocks(a.rows) * row_block + line));
    uint16_t* const packed = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
    for (int64_t r = 0; r < a.rows; r += block) (parts_a_ == 1 ? pack_rows<1> : pack_rows<max_parts>)(a.row_range(r, std::min(block, a.rows - r)), packed + r / block * row_block);
    static constexpr float no_bias[block] = {};
    alignas(64) float sums[block * block];
    const Tiles tiles;
    for (int64_t at = 0; at < c.cols; at += block) {
      const uint16_t* const b = panel((column + at) / block) + row / depth * parts_ * step_size;
      const int64_t lines = (parts_ * step_size / line + count_blocks(c.rows) - 1) / count_blocks(c.rows);  // of the next panel, so that it is there in time
      const uint16_t* next = b + panel_size();
      for (int64_t r = 0; r < c.rows; r += block, next += steps * lines * line) {
        const MatrixView part = c.row_range(r, std::min(block, c.rows - r)).column_range(at, std::min(block, c.cols - at));
        (part.rows > 16 ? products_.whole : products_.few)(packed + r / block * row_block, b, steps, {next, lines}, sums);
        finish_block(alpha, sums, bias ? bias + at : no_bias, part);
      }
    }
  }

 private:
  int64_t panel_size() const { return steps_ * parts_ * step_size; }

  int64_t steps_, columns_;
  int parts_, parts_a_;
  BlockProducts products_;
  PooledMemory packed_;
};

class AmxMatrix final : public PackedMatrix {
 public:
  /// `read(first, rows)` gives rows of W, on any thread, for use until the thread's next call.
  AmxMatrix(int64_t out, int64_t in, std::span<const float> bias, Precision precision, int parts, const std::function<ConstMatrixView(int64_t, int64_t)>& read)
      : factor_(in, out, parts, precision), bias_(static_cast<size_t>(factor_.panels() * block)) {
    std::ranges::copy(bias, bias_.begin());
    parallel_for(factor_.panels(), [&](int64_t panel) { pack_columns(read(panel * block, std::min(block, out - panel * block)), parts, factor_.panel(panel)); });
  }

  int64_t most_rows() const override { return 4 * tile_rows; }

  void apply(ConstMatrixView x, MatrixView y) const override {
    constexpr int64_t in_cache = 384 << 10;  // bf16 numbers that stay in the second-level cache (2 MB) while the weights go by
    const int64_t at_once = std::clamp(in_cache / factor_.packed_row() / block * block, 2 * block, most_rows());
    for (int64_t first = 0; first < x.rows; first += at_once) {
      const int64_t rows = std::min(at_once, x.rows - first);
      factor_.multiply(1, x.row_range(first, rows), 0, 0, bias_.data(), y.row_range(first, rows));
    }
  }

 private:
  Factor factor_;
  std::vector<float> bias_;
};

class AmxFactor final : public PackedFactor {
 public:
  AmxFactor(ConstMatrixView b, Transpose transpose, Precision precision)
      : factor_(transpose == Transpose::yes ? b.cols : b.rows, transpose == Transpose::yes ? b.rows : b.cols, precision == Precision::f32 ? max_parts : 1, precision) {
    for (int64_t panel = 0; panel < factor_.panels(); ++panel) {
      const int64_t first = panel * block;
      if (transpose == Transpose::yes) pack_columns(b.row_range(first, std::min(block, b.rows - first)), factor_.parts(), factor_.panel(panel));
      else pack_untransposed(b, first, factor_.parts(), factor_.panel(panel));
    }
  }

  void multiply(float alpha, ConstMatrixView a, int64_t row, int64_t column, MatrixView c) const override { factor_.multiply(alpha, a, row, column, nullptr, c); }

 private:
  Factor factor_;
};

/// Of all rows together; `read` as AmxMatrix has it.
int count_parts(int64_t rows, const std::function<ConstMatrixView(int64_t, int64_t)>& read) {
  std::atomic<int> most = 1;
  parallel_pieces(rows, block, [&](int64_t first, int64_t last) {
    if (most == max_parts) return;
    const ConstMatrixView values = read(first, last - first);
    for (int64_t r = 0; r < values.rows && most < max_parts; ++r) {
      const int parts = count_parts(values.row_span(r));
      for (int known = most; known < parts && !most.compare_exchange_weak(known, parts);) {}
    }
  });
  return most;
}

}  // namespace

bool has_amx() {
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;  // of EDX (CPUID leaf 7)
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & amx_bf16) || !(d & amx_tile) || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512bf16")) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;  // arch_prctl(2): ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return has;
}

std::unique_ptr<PackedMatrix> pack_amx(ConstMatrixView weight, std::span<const float> bias, Precision precision) {
  const auto read = [&](int64_t first, int64_t rows) { return weight.row_range(first, rows); };
  return std::make_unique<AmxMatrix>(weight.rows, weight.cols, bias, precision, precision == Precision::bf16 ? 1 : count_parts(weight.rows, read), read);
}

std::unique_ptr<PackedMatrix> pack_amx_rows(const TensorRows& weight, std::span<const float> bias, Precision precision) {
  const auto read = [&](int64_t first, int64_t count) {
    const MatrixView rows{thread_scratch<float, 7>(static_cast<size_t>(count * weight.cols())).data(), count, weight.cols(), weight.cols()};
    for (int64_t r = 0; r < count; ++r) weight.read(first + r, rows.row_span(r));
    return ConstMatrixView(rows);
  };
  return std::make_unique<AmxMatrix>(weight.rows(), weight.cols(), bias, precision, precision == Precision::bf16 || weight.is_bf16() ? 1 : count_parts(weight.rows(), read), read);
}

std::unique_ptr<PackedFactor> pack_amx_factor(ConstMatrixView b, Transpose transpose, Precision precision) { return std::make_unique<AmxFactor>(b, transpose, precision); }

}  // namespace llmc

#endif
