#include "passes/block_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <memory>

#include "core/error.h"
#include "core/parallel.h"
#include "formats/gguf/layouts.h"
#include "passes/lane_transpose.h"

namespace llmc {
namespace {

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

/// Blocks that one thread works on at a time.
struct Workplace {
  BlockBatch batch;
  std::array<Block, block_lanes> blocks;
  std::array<uint8_t, Block::most_weights * block_lanes> packed;  ///< codes, [bytes, lanes]
};

void get_scales(const GgufTypeInfo& type, const BlockBatch& batch, std::span<Block> blocks) {
  for (size_t b = 0; b < blocks.size(); ++b) {
    blocks[b].d = batch.d[b];
    blocks[b].dmin = batch.dmin[b];
    for (size_t k = 0; k < static_cast<size_t>(type.spans()); ++k) {
      blocks[b].scales[k] = batch.scales[k][b];
      blocks[b].mins[k] = batch.mins[k][b];
    }
  }
}

/// nullptr for types that are packed block by block.
const gguf::LaneLayout* find_lane_layout(GgufType type) {
  static_assert(gguf::LaneLayout::lanes == block_lanes);
  switch (type) {
    case GgufType::q8_0: return &gguf::q8_0_lanes;
    case GgufType::q4_0: return &gguf::q4_0_lanes;
    case GgufType::q3_k: return &gguf::q3_k_lanes;
    default: return nullptr;
  }
}

/// Writes the first `count` blocks that were found.
void pack_blocks(const GgufTypeInfo& type, Workplace& place, size_t count, uint8_t* bytes) {
  const auto blocks = std::span(place.blocks).first(count);
  const auto stride = static_cast<size_t>(type.bytes);
  if (const gguf::LaneLayout* layout = find_lane_layout(type.type)) {
    layout->pack_codes(place.batch.codes, place.packed.data());
    std::array<uint8_t*, block_lanes> rows;
    for (size_t b = 0; b < count; ++b) rows[b] = bytes + b * stride + layout->first;
    from_lanes(place.packed.data(), layout->bytes, std::span(rows).first(count));
    get_scales(type, place.batch, blocks);
    for (size_t b = 0; b < count; ++b) layout->pack_scales(blocks[b], bytes + b * stride);
  } else {
    get_blocks(type, place.batch, blocks);
    for (size_t b = 0; b < count; ++b) type.pack(blocks[b], bytes + b * stride);
  }
}

}  // namespace

void get_blocks(const GgufTypeInfo& type, const BlockBatch& batch, std::span<Block> blocks) {
  std::array<uint8_t*, block_lanes> codes;
  for (size_t b = 0; b < blocks.size(); ++b) codes[b] = blocks[b].codes.data();
  get_scales(type, batch, blocks);
  from_lanes(batch.codes, static_cast<size_t>(type.block), std::span(codes).first(blocks.size()));
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

std::vector<std::byte> encode_gguf(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where, SearchBatch search) {
  check_sizes(type, weights, importance, where);
  std::vector<std::byte> bytes(static_cast<size_t>(gguf_bytes(type, weights.rows * weights.cols)));
  encode_gguf(type, weights, importance, where, bytes, search);
  return bytes;
}

void encode_gguf(const GgufTypeInfo& type, ConstMatrixView weights, std::span<const float> importance, const std::string& where, std::span<std::byte> bytes, SearchBatch search) {
  check_sizes(type, weights, importance, where);
  assert(std::ssize(bytes) == gguf_bytes(type, weights.rows * weights.cols));
  if (type.dtype) {
    check_values(type, weights, where);
    const int64_t row_bytes = gguf_bytes(type, weights.cols);
    parallel_pieces(weights.rows, 64, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) encode_floats(*type.dtype, {weights.row(r), static_cast<size_t>(weights.cols)}, bytes.subspan(static_cast<size_t>(r * row_bytes), static_cast<size_t>(row_bytes)));
    });
    return;
  }
  const ErrorWeights kind = importance.empty() ? ErrorWeights::ones : ErrorWeights::given;
  const std::vector<float> column_weights = error_weights(importance, weights.cols);
  const int64_t per_row = weights.cols / type.block;
  const float largest = largest_value(type);
  constexpr int64_t piece = 1 << 16;  // weights
  parallel_pieces(weights.rows * per_row, piece / type.block, [&](int64_t first, int64_t last) {
    const auto place = std::make_unique_for_overwrite<Workplace>();
    std::array<const float*, block_lanes> x, w;
    int64_t row = first / per_row, column = first % per_row * type.block;
    for (int64_t begin = first; begin < last; begin += block_lanes) {
      const auto count = static_cast<size_t>(std::min<int64_t>(block_lanes, last - begin));
      for (size_t b = 0; b < count; ++b) {
        x[b] = weights.row(row) + column;
        w[b] = column_weights.data() + column;
        if ((column += type.block) < weights.cols) continue;
        column = 0;
        ++row;
      }
      to_lanes(std::span(x).first(count), static_cast<size_t>(type.block), place->batch.x);
      if (kind == ErrorWeights::given) to_lanes(std::span(w).first(count), static_cast<size_t>(type.block), place->batch.w);
      place->batch.next = last - begin > std::ssize(x) ? weights.row(row) + column : nullptr;
      search(type, place->batch, kind);
      for (size_t b = 0; b < count; ++b)
        if (!(place->batch.largest[b] <= largest)) check_values(type, weights, where);  // throws
      pack_blocks(type, *place, count, reinterpret_cast<uint8_t*>(bytes.data()) + begin * type.bytes);
    }
  });
}

}  // namespace llmc
