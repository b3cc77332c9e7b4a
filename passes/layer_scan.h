// Owns the scan of the dense model before pruning: how much output error each weight's zeros would make, and where outliers are.
#pragma once

#include <span>
#include <vector>

#include "passes/layerwise_pruner.h"
#include "passes/sparsity_allocation.h"

namespace llmc {

/// Runs the sweep without changing anything. For each of the weights, in their order: the relative output error of its zeros alone
/// at each of `sparsities`, and its block's share of scores |w| · ‖x‖₂ above 5 times their mean (Yin 2023). Masks come from
/// magnitudes or, for the other methods, from those scores.
std::vector<LayerScan> scan_layers(Model& model, const PruneTargets& targets, const std::vector<PruneTarget>& list, PruneMethod method, std::span<const double> sparsities, const PassContext& context);

}  // namespace llmc
