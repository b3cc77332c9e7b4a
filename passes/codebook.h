// Owns k-means in one dimension: the centroids of a codebook from the weights that share it.
#pragma once

#include <span>
#include <vector>

#include "core/tensor.h"

namespace llmc {

/// Whether 0 has to be one of the centroids.
enum class ZeroLevel { free, kept };

/// The `count` centroids with the least Σ importance · (x − nearest centroid)², ascending, rounded to `dtype`. Found by
/// dynamic programming over the sorted weights (Wang and Song 2011): the optimum, not a local one, up to 8192 distinct
/// weights; more are first merged into 8192 neighbourhoods of equal importance. With fewer distinct weights than
/// centroids the last repeats. `importance` [cols]; empty: all alike. Kept: the centroid nearest to 0 becomes 0.
std::vector<float> fit_codebook(ConstMatrixView weights, std::span<const float> importance, int count, DType dtype, ZeroLevel zero);

}  // namespace llmc
