// Owns the loops over weights in which a search for block scales spends its time: sixteen spans of a block format side by side.
#pragma once

#include <array>
#include <cstdint>

#include "formats/gguf/block.h"

namespace llmc {

constexpr int span_lanes = 16;
/// A figure of each span.
struct alignas(64) Lanes : std::array<float, span_lanes> {};

/// Sixteen spans, one in each lane. A lane of zeros is as good as none.
struct SpanBatch {
  int weights = 0;                                                ///< in each span
  alignas(64) float x[Block::most_weights * span_lanes];          ///< [weights, lanes]
  alignas(64) float w[Block::most_weights * span_lanes];          ///< [weights, lanes]: what the square of an error counts
  alignas(64) uint8_t codes[Block::most_weights * span_lanes];    ///< [weights, lanes]
};

/// The levels that codes mean, as the loops need them.
struct LevelSteps {
  explicit LevelSteps(const BlockGrid& grid);

  /// The code of the level nearest to a place, and the level of a code.
  int code(float place) const;
  float level(int code) const { return even ? first + static_cast<float>(code) : levels[static_cast<size_t>(code)]; }

  bool even = false;
  float lowest = 0, highest = 0;       ///< of the levels that are written
  float first = 0;                     ///< the level of code 0, if even
  int steps = 0;                       ///< levels but the first, if not even
  std::array<float, 16> levels = {};   ///< if not even
  std::array<float, 15> borders = {};  ///< half-way between them
};

/// Of the weights alone: the smallest and the largest, and Σ w, Σ w x, Σ w x².
struct SpanFacts {
  Lanes low, high, w, x, xx;
};
/// Of the weights and their levels q: Σ w q, Σ w q², Σ w x q.
struct SpanSums {
  Lanes q, qq, xq;
};

/// One implementation; the same bits from all: sums run over the weights in order, nothing is fused.
struct SpanKernels {
  void (*measure)(const SpanBatch& batch, SpanFacts& facts);
  /// q: the level nearest to (x + min) · inverse
  void (*add_up)(const SpanBatch& batch, const LevelSteps& levels, const Lanes& inverse, const Lanes& min, SpanSums& sums);
  /// Codes of the levels nearest to (x + min) / scale, and Σ w (x − (scale · q − min))². A scale of 0 means the level nearest to 0.
  void (*round)(SpanBatch& batch, const LevelSteps& levels, const Lanes& scale, const Lanes& min, Lanes& error);
};

/// One weight at a time, as plainly as can be.
const SpanKernels& plain_span_kernels();
/// In the widest vectors that the machine has.
const SpanKernels& vector_span_kernels();

}  // namespace llmc
