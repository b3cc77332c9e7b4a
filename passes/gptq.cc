#include "passes/gptq.h"

#include <algorithm>
#include <cassert>

#include "core/parallel.h"
#include "passes/compensation_tile.h"

namespace llmc {

QuantizedMatrix quantize_gptq(ConstMatrixView weights, const HessianFactor& factor, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where, const Mask* mask) {
  const int64_t in = weights.cols;
  assert(factor.upper.rows() == in);
  QuantizedMatrix result = make_quantized_matrix(scheme, scale_dtype, weights.rows, in, where);
  choose_grids(weights, {}, range, where, result);
  parallel_pieces(weights.rows, CompensationTile::lanes, [&](int64_t first, int64_t) {
    CompensationTile tile(weights, factor.order, first);
    for (int64_t begin = 0; begin < in; begin += CompensationTile::block)
      tile.finish_columns(factor.upper.view(), begin, std::min(in, begin + CompensationTile::block), [&](int64_t i, int64_t lane, float weight) {
        const int64_t row = first + lane, channel = tile.channel(i), scale = result.scale_index(row, channel);
        int8_t& stored = result.codes[static_cast<size_t>(row * in + channel)];
        if (mask && mask->row(row)[channel]) {
          stored = static_cast<int8_t>(result.zero_code(scale));
          return 0.0f;
        }
        const Grid grid = get_grid(result, scale);
        const float code = grid.code(weight);
        stored = static_cast<int8_t>(code);
        return grid.value(code);
      });
  });
  return result;
}

}  // namespace llmc
