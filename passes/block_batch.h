// Owns the search for the scales, minima and codes of sixteen blocks side by side, and what it works on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "formats/gguf_types.h"

namespace llmc {

constexpr size_t block_lanes = 16;
/// A figure of each block.
struct alignas(64) Lanes : std::array<float, block_lanes> {};

/// Sixteen blocks, one in each lane. A lane of zeros is as good as none.
struct BlockBatch {
  // What is given, [weights, lanes].
  alignas(64) float x[Block::most_weights * block_lanes];
  alignas(64) float w[Block::most_weights * block_lanes];  ///< what the square of an error counts; not read when all count 1
  const float* next = nullptr;  ///< where the weights of the next batch begin, if anywhere: the search asks the caches for them

  // What is found, as in Block.
  alignas(64) uint8_t codes[Block::most_weights * block_lanes];  ///< [weights, lanes]
  Lanes d, dmin;
  std::array<Lanes, Block::most_spans> scales, mins;
  Lanes largest;  ///< |x|; NaN if one of them is not finite, and then the rest means nothing
};

/// 1.5 · 2²³: behind it an f32 has no bits for a fraction, so adding it rounds to the nearest (even) whole number, which the low bits of
/// the sum then are.
constexpr float whole_bias = 0x1.8p23f;

enum class ErrorWeights { ones, given };

/// For each block: of the scales, minima and codes that the search tries, those with the least Σ w (x − x̂)². Every span is fitted on
/// its own first: codes for a scale (and a minimum), and the least-squares scale for those codes, from several starts. Then the block's d
/// (and dmin) and the spans' integers are moved, in turns, to where the sum over the block is least.
using SearchBatch = void (*)(const GgufTypeInfo& type, BlockBatch& batch, ErrorWeights weights);

// All give the same bits: sums run over the weights, then the spans, in order, and multiply-adds are fused.

/// One float at a time, as plainly as can be.
void search_batch_plain(const GgufTypeInfo& type, BlockBatch& batch, ErrorWeights weights);
/// In the widest vectors that the machine has; as the plain one where it cannot fuse a multiply-add.
void search_batch(const GgufTypeInfo& type, BlockBatch& batch, ErrorWeights weights);

}  // namespace llmc
