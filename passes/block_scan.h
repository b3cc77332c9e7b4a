// Owns the scan of what zeros in one block cost the whole model, before pruning.
#pragma once

#include <span>
#include <vector>

#include "passes/layerwise_pruner.h"

namespace llmc {

/// The first calibration sequences of so many tokens in all, or all there are.
inline constexpr int64_t block_scan_tokens = 512;

struct BlockScan {
  int64_t block = 0;
  std::vector<double> divergences;  ///< at each share of zeros: KL(dense ‖ pruned) of the predictions in nats, mean over the tokens
};

/// For each block that has weights in the list, with those pruned to each of `sparsities`, and the list's weights in all other blocks to
/// `background` (0: left alone). Masks come from magnitudes or, for the other methods, from |w| · ‖x‖₂. The model comes back as it was. The same figures for any number of threads.
/// Memory: one block, and the hidden states of the tokens for each of the shares.
std::vector<BlockScan> scan_blocks(Model& model, const PruneTargets& targets, const std::vector<PruneTarget>& list, PruneMethod method, std::span<const double> sparsities, double background, const PassContext& context);

}  // namespace llmc
