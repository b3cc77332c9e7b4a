// Owns how a model's zeros are spread over its weights: pure functions from what a scan found to a sparsity for each.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

enum class Allocation {
  uniform,   ///< the same share of each
  owl,       ///< less of blocks with more outliers (Yin 2023)
  measured,  ///< less of blocks whose zeros cost the predictions more
};
std::string_view to_string(Allocation allocation);
/// "uniform", "owl", "measured". Throws Error(usage) naming `where`.
Allocation parse_allocation(std::string_view text, const std::string& where);

/// What a scan of the dense model says of one weight matrix.
struct LayerScan {
  int64_t weights = 0;
  double outlier_share = 0;     ///< of its block: scores above 5 times their mean
  std::vector<double> errors;   ///< relative output error at each of the scan's sparsities, ascending
};

/// Sparsities around `sparsity` that sum to it: a block's density is above the mean in proportion to its share of outliers, all
/// densities lie within 2 · 0.08 of each other (Yin 2023, section 4.1: λ = 0.08, M = 5).
std::vector<double> allocate_by_outliers(std::span<const LayerScan> layers, double sparsity);

/// What the model's predictions lose to a little less and a little more of zeros in one block, all others being pruned to `sparsity`.
struct BlockCost {
  int64_t weights = 0;
  double less = 0, same = 0, more = 0;  ///< KL divergence at sparsity − step, sparsity, sparsity + step
};
/// What to try: 0.05, or what `sparsity` leaves room for.
double allocation_step(double sparsity);

/// A sparsity for each block, all within 0.08 of `sparsity`, that sum to it: the least of the sum of the parabolas through the costs.
std::vector<double> allocate_by_cost(std::span<const BlockCost> blocks, double sparsity);

}  // namespace llmc
