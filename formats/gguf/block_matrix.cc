#include "formats/gguf/block_matrix.h"

#include <algorithm>
#include <cassert>

#include "core/parallel.h"

namespace llmc {
namespace {

constexpr int64_t piece = 16;  // rows

}  // namespace

BlockMatrix::BlockMatrix(const GgufTypeInfo& block_type, int64_t row_count, int64_t column_count) : type(&block_type), rows(row_count), cols(column_count) {
  assert(!type->dtype && cols % type->block == 0);
  const auto count = static_cast<size_t>(rows * cols), spans = count / static_cast<size_t>(type->grid.span), blocks = count / static_cast<size_t>(type->block);
  codes.resize(count);
  scales.resize(spans);
  mins.resize(spans);
  d.resize(blocks);
  dmin.resize(blocks);
}

Block BlockMatrix::get_block(int64_t row, int64_t col) const {
  Block block;
  const auto at = static_cast<size_t>(block_index(row, col));
  block.d = d[at];
  block.dmin = dmin[at];
  std::copy_n(scales.begin() + span_index(row, col), type->spans(), block.scales.begin());
  std::copy_n(mins.begin() + span_index(row, col), type->spans(), block.mins.begin());
  std::copy_n(codes.begin() + row * cols + col, type->block, block.codes.begin());
  return block;
}

void BlockMatrix::set_block(int64_t row, int64_t col, const Block& block) {
  const auto at = static_cast<size_t>(block_index(row, col));
  d[at] = block.d;
  dmin[at] = block.dmin;
  std::copy_n(block.scales.begin(), type->spans(), scales.begin() + span_index(row, col));
  std::copy_n(block.mins.begin(), type->spans(), mins.begin() + span_index(row, col));
  std::copy_n(block.codes.begin(), type->block, codes.begin() + row * cols + col);
}

std::vector<std::byte> pack(const BlockMatrix& matrix) {
  const GgufTypeInfo& type = *matrix.type;
  std::vector<std::byte> bytes(static_cast<size_t>(gguf_bytes(type, matrix.rows * matrix.cols)));
  parallel_pieces(matrix.rows, piece, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < matrix.cols; c += type.block) type.pack(matrix.get_block(r, c), reinterpret_cast<uint8_t*>(bytes.data()) + matrix.block_index(r, c) * type.bytes);
  });
  return bytes;
}

BlockMatrix unpack(const GgufTypeInfo& type, int64_t rows, int64_t cols, std::span<const std::byte> bytes) {
  BlockMatrix matrix(type, rows, cols);
  assert(static_cast<int64_t>(bytes.size()) == gguf_bytes(type, rows * cols));
  parallel_pieces(rows, piece, [&](int64_t first, int64_t last) {
    Block block;
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < cols; c += type.block) {
        type.unpack(reinterpret_cast<const uint8_t*>(bytes.data()) + matrix.block_index(r, c) * type.bytes, block);
        matrix.set_block(r, c, block);
      }
  });
  return matrix;
}

Matrix evaluate(const BlockMatrix& matrix) {
  Matrix values(matrix.rows, matrix.cols);
  parallel_pieces(matrix.rows, piece, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < matrix.cols; c += matrix.type->block) evaluate(matrix.type->grid, matrix.get_block(r, c), {values.row(r) + c, static_cast<size_t>(matrix.type->block)});
  });
  return values;
}

}  // namespace llmc
