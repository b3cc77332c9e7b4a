// Owns what all methods that prune during the calibration sweep have in common: which weight is due at which tap, the error
// before and after, reconstruction, and the count of what was done.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "passes/pass.h"
#include "passes/prune_targets.h"

namespace llmc {

/// What a weight is worth, by itself or in the layer it belongs to: its score in a mask.
enum class PruneMethod {
  magnitude,  ///< |w| (Han 2015)
  wanda,      ///< |w| · ‖x‖₂ of its input (Sun 2023)
  sparsegpt,  ///< w² / [H⁻¹]² as the recursion reaches it (Frantar & Alistarh 2023)
  fisher,     ///< |w| · √F from the gradients of the whole model (fisher_scores): not the business of prune_layerwise
};

enum class Reconstruction { none, least_squares };

struct LayerwisePruning {
  PruneMethod method = PruneMethod::magnitude;
  double damping = 0.01;  ///< share of the mean of the second moment's diagonal that is added to it
  Reconstruction reconstruction = Reconstruction::none;
};

/// Runs the sweep; each weight is pruned on the inputs it has in the model pruned so far. With least squares the goal is first
/// corrected for what earlier layers' errors did to the inputs (correct_for_drift), and what is left of each row then fitted to
/// it. Returns what the report should say: per weight the sparsity asked and reached and the relative output error E‖(W − Ŵ)x‖² /
/// E‖Wx‖² of zeros alone and of the method, per block the error of the hidden states. Throws as PruneCount does.
nlohmann::json prune_layerwise(Model& model, const PruneTargets& targets, const std::vector<PruneTarget>& list, const LayerwisePruning& pruning, const PassContext& context);

}  // namespace llmc
