// Owns products that skip the zeros of a weight, and the decision when that is faster than to multiply them.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "model/matmul.h"

namespace llmc {

/// How the zeros of a weight are skipped: it is cut into strips of so many consecutive rows, and of each strip the columns are
/// kept that are not all zero there. One row suits single weights and N:M, more suit blocks.
enum class StripHeight { one = 1, two = 2, four = 4 };

/// The height for which skipping zeros is expected to be faster than the dense f32 product, which takes `dense_time` times as
/// long as oneDNN's; none where that is. It depends on the weight's zeros and shape alone, so that the same weight runs the same
/// way for any number of threads (docs/pruning.md has the measurements).
std::optional<StripHeight> find_strip_height(ConstMatrixView weight, double dense_time = 1);

/// The weight in f32 without the zeros. Sums run over the columns in order, so a row of y depends on that row of x alone; where
/// that holds NaN or infinity it is a row of NaN.
std::unique_ptr<PackedMatrix> pack_strips(ConstMatrixView weight, std::span<const float> bias, StripHeight height);

}  // namespace llmc
