#include "passes/gptq_blocks.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <memory>
#include <vector>

#include "core/parallel.h"
#include "passes/block_search.h"
#include "passes/compensation_tile.h"
#include "passes/lane_transpose.h"
#include "passes/level_steps.h"

namespace llmc {
namespace {

ErrorWeights tensor_kind_of(std::span<const float> importance) { return importance.empty() ? ErrorWeights::ones : ErrorWeights::given; }

/// Searches the blocks of some rows that start at one column; fill(first, count, x) gives those of `count` rows as a batch wants them.
template <typename Fill>
void choose_blocks(BlockMatrix& result, int64_t first_row, int64_t rows, int64_t column, std::span<const float> error_weights, ErrorWeights kind, Fill fill) {
  const GgufTypeInfo& type = *result.type;
  const auto batch = std::make_unique_for_overwrite<BlockBatch>();
  for (int64_t i = 0; i < type.block; ++i) std::fill_n(batch->w + i * static_cast<int64_t>(block_lanes), block_lanes, error_weights[static_cast<size_t>(column + i)]);
  std::array<Block, block_lanes> blocks;
  for (int64_t begin = 0; begin < rows; begin += block_lanes) {
    const int64_t count = std::min<int64_t>(block_lanes, rows - begin);
    fill(begin, count, batch->x);
    search_batch(type, *batch, kind);
    get_blocks(type, *batch, std::span(blocks).first(static_cast<size_t>(count)));
    for (int64_t lane = 0; lane < count; ++lane) result.set_block(first_row + begin + lane, column, blocks[static_cast<size_t>(lane)]);
  }
}

}  // namespace

BlockMatrix search_matrix(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where) {
  check_encodable(type, weights, importance, where);
  BlockMatrix result(type, weights.rows, weights.cols);
  const std::vector<float> error_weights_of_columns = error_weights(importance, weights.cols);
  parallel_pieces(weights.rows, CompensationTile::lanes, [&](int64_t first, int64_t last) {
    for (int64_t column = 0; column < weights.cols; column += type.block)
      choose_blocks(result, first, last - first, column, error_weights_of_columns, tensor_kind_of(importance), [&](int64_t begin, int64_t count, float* x) {
        std::array<const float*, block_lanes> rows;
        for (int64_t lane = 0; lane < count; ++lane) rows[static_cast<size_t>(lane)] = weights.row(first + begin + lane) + column;
        to_lanes(std::span(rows).first(static_cast<size_t>(count)), static_cast<size_t>(type.block), x);
      });
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
        if (when_reached && lane == 0 && i % type.block == 0) choose_blocks(result, first, tile.rows(), i, error_weights_of_columns, tensor_kind_of(importance), [&](int64_t begin_row, int64_t count, float* x) {
            for (int64_t k = 0; k < type.block; ++k, x += block_lanes) {
              std::copy_n(tile.column(i + k) + begin_row, count, x);
              std::fill(x + count, x + block_lanes, 0.0f);
            }
          });
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
