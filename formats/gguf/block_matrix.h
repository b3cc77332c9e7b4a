// Owns a weight as blocks of a GGUF type in memory: what every block says, field by field, before it is packed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "formats/gguf_types.h"

namespace llmc {

/// A matrix [rows, cols] of blocks that lie along its rows. The type is none of the plain floats.
struct BlockMatrix {
  BlockMatrix(const GgufTypeInfo& block_type, int64_t row_count, int64_t column_count);

  const GgufTypeInfo* type;
  int64_t rows;
  int64_t cols;
  std::vector<uint8_t> codes;       ///< [rows, cols]
  std::vector<float> scales, mins;  ///< [rows, cols / span]: as in Block
  std::vector<float> d, dmin;       ///< [rows, cols / block]

  int64_t span_index(int64_t row, int64_t col) const { return (row * cols + col) / type->grid.span; }
  int64_t block_index(int64_t row, int64_t col) const { return (row * cols + col) / type->block; }
  /// What the levels at (row, col) are multiplied by, and what is then taken away.
  float scale(int64_t row, int64_t col) const { return d[static_cast<size_t>(block_index(row, col))] * scales[static_cast<size_t>(span_index(row, col))]; }
  float min(int64_t row, int64_t col) const { return dmin[static_cast<size_t>(block_index(row, col))] * mins[static_cast<size_t>(span_index(row, col))]; }

  /// The block that starts at (row, col).
  Block get_block(int64_t row, int64_t col) const;
  void set_block(int64_t row, int64_t col, const Block& block);
};

/// As bytes of the type, row after row.
std::vector<std::byte> pack(const BlockMatrix& matrix);
/// What pack() undoes: rows · cols weights in bytes of the type.
BlockMatrix unpack(const GgufTypeInfo& type, int64_t rows, int64_t cols, std::span<const std::byte> bytes);
/// What the blocks mean; decode_gguf(pack(matrix)) gives the same bits.
Matrix evaluate(const BlockMatrix& matrix);

}  // namespace llmc
