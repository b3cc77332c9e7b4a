#include "passes/learned_grid.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/parallel.h"
#include "passes/grid.h"

namespace llmc {
namespace {

constexpr float margin = 0.25f;  ///< how far inside the cell of its code a weight starts, in codes

}  // namespace

LearnedGrid::LearnedGrid(ConstMatrixView weights, QuantizedMatrix start)
    : start_(std::move(start)),
      position_(weights.rows, weights.cols),
      rounding_mean_(weights.rows, weights.cols),
      rounding_square_(weights.rows, weights.cols),
      scale_change_(start_.scales.size()),
      scale_mean_(start_.scales.size()),
      scale_square_(start_.scales.size()) {
  assert(start_.rows == weights.rows && start_.cols == weights.cols);
  parallel_pieces(weights.rows, 16, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < weights.cols; ++c) {
        const Grid grid = get_grid(start_, start_.scale_index(r, c));
        const float code = static_cast<float>(start_.codes[static_cast<size_t>(r * weights.cols + c)]) - grid.zero;
        const float place = weights.row(r)[c] / grid.scale;
        position_.row(r)[c] = std::clamp(place, code - 0.5f + margin, code + 0.5f - margin);
      }
  });
}

void LearnedGrid::write_values(Matrix& values) const {
  parallel_pieces(start_.rows, 16, [&](int64_t first, int64_t last) {
    const int64_t span = start_.span();
    for (int64_t r = first; r < last; ++r)
      for (int64_t begin = 0; begin < start_.cols; begin += span) {
        const int64_t index = start_.scale_index(r, begin);
        const Grid grid = get_grid(start_, index);
        const float scale = round_to(start_.scale_dtype, grid.scale * (1 + scale_change_[static_cast<size_t>(index)]));
        const float lowest = grid.lowest - grid.zero, highest = grid.highest - grid.zero;
        const float* at = position_.row(r) + begin;
        float* out = values.row(r) + begin;
        for (int64_t i = 0; i < span; ++i) out[i] = std::clamp(Grid::round_even(at[i]), lowest, highest) * scale;
      }
  });
}

void LearnedGrid::update(const Matrix& gradient, const LearningRates& rates) {
  ++steps_;
  const float unbias_mean = 1 / (1 - std::pow(rates.momentum, static_cast<float>(steps_)));
  const float unbias_square = 1 / (1 - std::pow(rates.memory, static_cast<float>(steps_)));
  const auto direction = [&](float g, float& mean, float& square) {
    mean = rates.momentum * mean + (1 - rates.momentum) * g;
    square = rates.memory * square + (1 - rates.memory) * g * g;
    return mean * unbias_mean / (std::sqrt(square * unbias_square) + 1e-20f);
  };
  const int64_t span = start_.span();
  const int64_t rows_per_scale = start_.scheme.granularity == Granularity::tensor ? start_.rows : 1;
  parallel_pieces(start_.scale_rows(), 16, [&](int64_t first, int64_t last) {
    for (int64_t scale_row = first; scale_row < last; ++scale_row)
      for (int64_t begin = 0; begin < start_.cols; begin += span) {
        const int64_t index = start_.scale_index(scale_row, begin);
        const auto at = static_cast<size_t>(index);
        const Grid grid = get_grid(start_, index);
        const float lowest = grid.lowest - grid.zero, highest = grid.highest - grid.zero;
        float toward = 0;
        for (int64_t r = scale_row * rows_per_scale; r < (scale_row + 1) * rows_per_scale; ++r) {
          float* position = position_.row(r) + begin;
          const float* g = gradient.row(r) + begin;
          float* mean = rounding_mean_.row(r) + begin;
          float* square = rounding_square_.row(r) + begin;
          for (int64_t i = 0; i < span; ++i) {
            toward += g[i] * std::clamp(Grid::round_even(position[i]), lowest, highest);
            position[i] = std::clamp(position[i] - rates.rounding * direction(g[i], mean[i], square[i]), lowest - 0.5f, highest + 0.5f);
          }
        }
        scale_change_[at] -= rates.scale * direction(toward, scale_mean_[at], scale_square_[at]);
      }
  });
}

QuantizedMatrix LearnedGrid::quantized() const {
  QuantizedMatrix result = start_;
  for (size_t i = 0; i < result.scales.size(); ++i) result.scales[i] = round_to(result.scale_dtype, result.scales[i] * (1 + scale_change_[i]));
  for (int64_t r = 0; r < result.rows; ++r)
    for (int64_t c = 0; c < result.cols; ++c) {
      const Grid grid = get_grid(start_, start_.scale_index(r, c));
      result.codes[static_cast<size_t>(r * result.cols + c)] = static_cast<int8_t>(std::clamp(Grid::round_even(position_.row(r)[c]) + grid.zero, grid.lowest, grid.highest));
    }
  return result;
}

}  // namespace llmc
