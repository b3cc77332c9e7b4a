#include "passes/block_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <memory>

#include "core/error.h"
#include "core/parallel.h"
#include "passes/block_scales.h"

namespace llmc {
namespace {

/// Values in the order of the weights → [weights, lanes]; lanes past the end are 0.
void spread(std::span<const float> values, int64_t span, float* lanes) {
  const auto weights = static_cast<size_t>(span), used = values.size() / weights;
  if (used < span_lanes) std::fill_n(lanes, weights * span_lanes, 0.0f);
  for (size_t lane = 0; lane < used; ++lane)
    for (size_t i = 0; i < weights; ++i) lanes[i * span_lanes + lane] = values[lane * weights + i];
}

void check_sizes(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where) {
  if (weights.cols % type.block != 0) throw Error(ErrorKind::usage, fmt::format("{}: rows of {} weights; {} stores blocks of {}", where, weights.cols, type.name, type.block));
  if (!importance.empty() && static_cast<int64_t>(importance.size()) != weights.cols) throw Error(ErrorKind::usage, fmt::format("{}: importance of {} columns; expected {}", where, importance.size(), weights.cols));
  for (size_t c = 0; c < importance.size(); ++c)
    if (!(importance[c] >= 0) || !std::isfinite(importance[c])) throw Error(ErrorKind::input, fmt::format("{}: importance of column {} is {}; expected 0 or more", where, c, importance[c]));
}

/// The largest value whose d an f16 still holds, and that f16 and bf16 hold themselves.
float largest_value(const GgufTypeInfo& type) {
  if (type.dtype) return *type.dtype == DType::f32 ? std::numeric_limits<float>::max() : *type.dtype == DType::f16 ? 65504.0f : 0x1.fep127f;
  const auto level = [&](int code) { return std::abs(static_cast<float>(type.grid.levels[static_cast<size_t>(code)])); };
  const float levels = std::max(level(type.grid.lowest_code), level(type.grid.highest_code));
  switch (type.grid.scale) {
    case BlockScale::f16: return type.grid.min == BlockMin::f16 ? 32752.0f : 65504.0f * 0.5f * levels;
    case BlockScale::integer: return 65504.0f * 0.5f * levels;
    case BlockScale::e8m0: return 0x1p100f;
    case BlockScale::e4m3: return 224.0f * levels;
  }
  return 0;
}

void check_values(const GgufTypeInfo& type, ConstMatrixView weights, const std::string& where) {
  const float largest = largest_value(type);
  parallel_pieces(weights.rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* row = weights.row(r);
      float most = 0;
      bool finite = true;
      for (int64_t c = 0; c < weights.cols; ++c) {
        const float size = std::abs(row[c]);
        most = std::max(most, size);
        finite = finite && size < std::numeric_limits<float>::infinity();
      }
      if (finite && most <= largest) continue;
      for (int64_t c = 0; c < weights.cols; ++c) {
        if (!std::isfinite(row[c])) throw Error(ErrorKind::input, fmt::format("{}: row {}, column {}: {} is not finite", where, r, c, row[c]));
        if (std::abs(row[c]) > largest) throw Error(ErrorKind::input, fmt::format("{}: row {}, column {}: {} is beyond {}, the largest value for {}", where, r, c, row[c], largest, type.name));
      }
    }
  });
}

/// Everything that one thread needs for one search.
struct Workplace {
  std::vector<float> x, w;
  std::array<Block, span_lanes> blocks;
};

}  // namespace

void search_blocks(const GgufTypeInfo& type, std::span<const float> x, std::span<const float> w, const SpanKernels& kernels, std::span<Block> blocks) {
  const BlockGrid& grid = type.grid;
  assert(x.size() == blocks.size() * static_cast<size_t>(type.block) && w.size() == x.size() && static_cast<int64_t>(blocks.size()) <= blocks_at_once(type));
  const auto batch = std::make_unique_for_overwrite<SpanBatch>();
  batch->weights = static_cast<int>(grid.span);
  spread(x, grid.span, batch->x);
  spread(w, grid.span, batch->w);
  const BlockScales scales = find_block_scales(type, *batch, kernels);
  const auto spans = static_cast<size_t>(type.spans()), span = static_cast<size_t>(grid.span);
  for (size_t b = 0; b < blocks.size(); ++b) {
    Block& block = blocks[b];
    block.d = scales.d[b];
    block.dmin = scales.dmin[b];
    for (size_t k = 0; k < spans; ++k) {
      const size_t lane = b * spans + k;
      block.scales[k] = scales.scale[lane];
      block.mins[k] = scales.min[lane];
      for (size_t i = 0; i < span; ++i) block.codes[k * span + i] = batch->codes[i * span_lanes + lane];
    }
  }
}

void check_encodable(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where) {
  check_sizes(type, weights, importance, where);
  check_values(type, weights, where);
}

std::vector<float> error_weights(std::span<const float> importance, int64_t columns) {
  double sum = 0;
  for (float value : importance) sum += value;
  std::vector<float> weights(static_cast<size_t>(columns), 1.0f);
  if (!(sum > 0)) return weights;
  constexpr double least = 1e-6;  // of the mean: too little to change what is known to matter
  const double mean = sum / static_cast<double>(columns);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(importance[i] / mean + least);
  return weights;
}

std::vector<std::byte> encode_gguf(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where, const SpanKernels& kernels) {
  check_encodable(type, weights, importance, where);
  const int64_t row_bytes = gguf_bytes(type, weights.cols);
  std::vector<std::byte> bytes(static_cast<size_t>(weights.rows * row_bytes));
  if (type.dtype) {
    parallel_pieces(weights.rows, 64, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) encode_floats(*type.dtype, {weights.row(r), static_cast<size_t>(weights.cols)}, std::span(bytes).subspan(static_cast<size_t>(r * row_bytes), static_cast<size_t>(row_bytes)));
    });
    return bytes;
  }
  const std::vector<float> column_weights = error_weights(importance, weights.cols);
  const int64_t per_row = weights.cols / type.block, at_once = blocks_at_once(type);
  constexpr int64_t searches = 64;  // in a piece
  parallel_pieces(weights.rows * per_row, searches * at_once, [&](int64_t first, int64_t last) {
    Workplace place;
    const auto block_weights = static_cast<size_t>(type.block);
    for (int64_t begin = first; begin < last; begin += at_once) {
      const int64_t count = std::min(at_once, last - begin);
      place.x.resize(static_cast<size_t>(count) * block_weights);
      place.w.resize(place.x.size());
      for (int64_t b = 0; b < count; ++b) {  // rows may end within a search
        const int64_t row = (begin + b) / per_row, column = (begin + b) % per_row * type.block;
        std::copy_n(weights.row(row) + column, block_weights, place.x.data() + static_cast<size_t>(b) * block_weights);
        std::copy_n(column_weights.data() + column, block_weights, place.w.data() + static_cast<size_t>(b) * block_weights);
      }
      search_blocks(type, place.x, place.w, kernels, std::span(place.blocks).first(static_cast<size_t>(count)));
      for (int64_t b = 0; b < count; ++b) type.pack(place.blocks[static_cast<size_t>(b)], reinterpret_cast<uint8_t*>(bytes.data()) + (begin + b) * type.bytes);
    }
  });
  return bytes;
}

}  // namespace llmc
