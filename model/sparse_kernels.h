// Owns the inner loops of products that skip zeros: SIMD picked at run time, over activations that are laid out feature by feature.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"

namespace llmc {

/// Activations of one tile: a row per feature, tile_tokens values in it.
inline constexpr int64_t tile_tokens = 64;

/// Some strips of `height` rows of a weight over the same columns: of each strip the columns that are kept.
struct StripRun {
  int height = 1;                           ///< 1, 2 or 4
  std::span<const uint32_t> ends;           ///< kept columns of the strips so far: strip s has those from ends[s] to ends[s + 1]; [strips + 1]
  const uint16_t* columns = nullptr;        ///< row of x
  const float* values = nullptr;            ///< [kept columns][height]
};

/// sums[strip · height + r] += Σ value · x[column], in the order of the columns, each sum and each token by itself: x and sums have
/// rows of tile_tokens values. Whatever lies in the first `tokens` of them is right; the others may be left as they were.
void add_strips(const StripRun& run, const float* x, int64_t tokens, float* sums);

/// to = fromᵀ
void transpose(ConstMatrixView from, MatrixView to);

/// sums[t] += 0 · x[t] of every row of x [features, tile_tokens]: NaN where a token has NaN or infinity, as in a dense product.
void add_not_finite(const float* x, int64_t features, float* sums);

/// sums [rows, tile_tokens] = bias[row] + start[token]; no bias is zero.
void start_sums(const float* bias, const float* start, int64_t rows, float* sums);

}  // namespace llmc
