// Owns what AMX does with packed operands: their layout, how they are packed, and the product of a block.
#pragma once

#ifdef __x86_64__

#include <cstdint>
#include <span>

#include "core/tensor.h"

namespace llmc::amx {

// A tile of A is 16 rows of 32 numbers, one of B 16 pairs of rows of 16 columns (Intel 64 and IA-32 Architectures Software
// Developer's Manual, TDPBF16PS). A step multiplies 2 tiles of each into the 2 × 2 tiles of a block of the result. Operands
// are packed so that the tiles lie in memory in the order in which they are read.
inline constexpr int64_t block = 32;            ///< rows and columns of a block
inline constexpr int64_t depth = 32;            ///< numbers of a row in a step
inline constexpr int64_t tile = 16 * depth;     ///< bf16 numbers in a tile, 1 KiB
inline constexpr int64_t step_size = 2 * tile;  ///< of one part of an operand
inline constexpr int64_t line = 32;             ///< bf16 numbers in a cache line
inline constexpr int max_parts = 3;

constexpr int64_t count_blocks(int64_t rows) { return (rows + block - 1) / block; }

/// Tiles are configured for as long as it lives, on this thread.
class Tiles {
 public:
  Tiles();
  ~Tiles();
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

/// What is to be in the second-level cache next, and how much of it (in cache lines) a step is to ask for.
struct Ahead {
  const uint16_t* next;
  int64_t lines;
};

/// sums [32, 32] = A · B of so many steps, or += where they are not the first.
using BlockProduct = void (*)(const uint16_t*, const uint16_t*, int64_t, Ahead, bool, float*);
/// Of blocks of all rows, and of those of up to 16, whose lower half is left alone.
struct BlockProducts {
  BlockProduct whole, few;
};
const BlockProducts& find_products(int parts_a, int parts_b);

/// At most 32 rows as the A of a product, in so many parts. The rows of the last tile that are not there keep what they held: they
/// concern no others.
void pack_rows(ConstMatrixView x, int parts, uint16_t* out);
/// At most 32 rows of a weight as the B of a product, whose columns they are.
void pack_columns(ConstMatrixView weight, int parts, uint16_t* out);
/// 32 columns of a matrix, from `first` on, as the B of a product.
void pack_untransposed(ConstMatrixView matrix, int64_t first, int parts, uint16_t* out);
/// How many parts f32 values have.
int count_parts(std::span<const float> values);

/// y = alpha · sums + bias, for at most 32 rows and columns of a block.
void finish_block(float alpha, const float* sums, const float* bias, const MatrixView& y);
/// y += alpha · sums + bias
void add_block(float alpha, const float* sums, const float* bias, const MatrixView& y);

}  // namespace llmc::amx

#endif
