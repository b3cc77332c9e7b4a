#include "passes/pruning_scores.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace llmc {

Matrix wanda_scores(ConstMatrixView weights, std::span<const float> mean_square) {
  std::vector<float> norms;
  const bool is_silent = std::ranges::all_of(mean_square, [](float square) { return square == 0; });
  for (float square : mean_square) norms.push_back(is_silent ? 1 : std::sqrt(square));
  Matrix scores(weights.rows, weights.cols);
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t c = 0; c < weights.cols; ++c) scores.row(r)[c] = std::abs(weights.row(r)[c]) * norms[static_cast<size_t>(c)];
  return scores;
}

Matrix fisher_scores(ConstMatrixView weights, ConstMatrixView fisher) {
  Matrix scores(weights.rows, weights.cols);
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t c = 0; c < weights.cols; ++c) scores.row(r)[c] = std::abs(weights.row(r)[c]) * std::sqrt(fisher.row(r)[c]);
  return scores;
}

}  // namespace llmc
