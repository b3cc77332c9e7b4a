#include "passes/gptq_blocks.h"

#include <algorithm>
#include <cassert>
#include <vector>

#include "core/parallel.h"
#include "passes/block_search.h"
#include "passes/compensation_tile.h"

namespace llmc {
namespace {

/// Searches the blocks of some rows that start at one column; value(lane, i) is the weight i columns on.
template <typename Value>
void choose_blocks(BlockMatrix& result, int64_t first_row, int64_t rows, int64_t column, std::span<const float> error_weights, Value value) {
  const GgufTypeInfo& type = *result.type;
  const int64_t at_once = blocks_at_once(type);
  std::vector<float> x, w;
  std::array<Block, span_lanes> blocks;
  for (int64_t begin = 0; begin < rows; begin += at_once) {
    const int64_t count = std::min(at_once, rows - begin);
    x.clear();
    w.clear();
    for (int64_t lane = begin; lane < begin + count; ++lane) {
      for (int64_t i = 0; i < type.block; ++i) x.push_back(value(lane, i));
      w.insert(w.end(), error_weights.begin() + column, error_weights.begin() + column + type.block);
    }
    search_blocks(type, x, w, vector_span_kernels(), std::span(blocks).first(static_cast<size_t>(count)));
    for (int64_t lane = 0; lane < count; ++lane) result.set_block(first_row + begin + lane, column, blocks[static_cast<size_t>(lane)]);
  }
}

}  // namespace

BlockMatrix search_matrix(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where) {
  check_encodable(type, weights, importance, where);
  BlockMatrix result(type, weights.rows, weights.cols);
  const std::vector<float> error_weights_of_columns = error_weights(importance, weights.cols);
  parallel_pieces(weights.rows, CompensationTile::lanes, [&](int64_t first, int64_t last) {
    for (int64_t column = 0; column < weights.cols; column += type.block) choose_blocks(result, first, last - first, column, error_weights_of_columns, [&](int64_t lane, int64_t i) { return weights.row(first + lane)[column + i]; });
  });
  return result;
}

BlockMatrix quantize_gptq_blocks(const GgufTypeInfo& type, ConstMatrixView weights, const HessianFactor& factor, std::span<const float> importance, const std::string& where) {
  const int64_t in = weights.cols;
  assert(factor.upper.rows() == in);
  static_assert(Block::most_weights % CompensationTile::block == 0, "columns are up to date where a block starts");
  const bool when_reached = std::ranges::is_sorted(factor.order);
  check_encodable(type, weights, importance, where);
  BlockMatrix result = when_reached ? BlockMatrix(type, weights.rows, in) : search_matrix(type, weights, importance, where);
  const std::vector<float> error_weights_of_columns = error_weights(importance, in);
  const LevelSteps levels(type.grid);
  parallel_pieces(weights.rows, CompensationTile::lanes, [&](int64_t first, int64_t) {
    CompensationTile tile(weights, factor.order, first);
    for (int64_t begin = 0; begin < in; begin += CompensationTile::block)
      tile.finish_columns(factor.upper.view(), begin, std::min(in, begin + CompensationTile::block), [&](int64_t i, int64_t lane, float weight) {
        if (when_reached && lane == 0 && i % type.block == 0) choose_blocks(result, first, tile.rows(), i, error_weights_of_columns, [&](int64_t other, int64_t k) { return tile.column(i + k)[other]; });
        const int64_t row = first + lane, channel = tile.channel(i);
        const float scale = result.scale(row, channel), min = result.min(row, channel);
        const int code = levels.code(scale == 0 ? 0 : (weight + min) / scale);
        result.codes[static_cast<size_t>(row * in + channel)] = static_cast<uint8_t>(code);
        return scale * levels.level(code) - min;
      });
  });
  return result;
}

}  // namespace llmc
