// Owns what a structured prune step removes: how much of which kind, checked against a model and its config.json.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "model/cut.h"
#include "passes/amount.h"
#include "passes/pass.h"

namespace llmc {

/// By what feed-forward channels, heads and hidden dimensions are ranked. Layers are ranked by block influence.
enum class Importance {
  magnitude,   ///< the sum of their squared weights
  activation,  ///< what the layer that reads them loses: Σ ‖W_j‖² E[x_j²]
  loss,        ///< what it loses once its other weights made up for them (keep_by_loss)
  taylor,      ///< the mean square, over samples, of the model's loss's derivative (slope_of_structures): a backward pass
};
std::string_view to_string(Importance importance);

/// Options: ffn, heads, hidden, layers (amounts, docs/recipes.md), importance, compensate, damping.
class StructureTargets {
 public:
  /// Reads its options from a step; the caller calls finish().
  StructureTargets(FieldReader& fields, const std::string& where);

  /// The options in effect, without "pass".
  nlohmann::json options() const;
  const std::optional<Amount>& ffn() const { return ffn_; }
  const std::optional<Amount>& heads() const { return heads_; }
  const std::optional<Amount>& hidden() const { return hidden_; }
  const std::optional<Amount>& layers() const { return layers_; }
  /// Whether anything but layers goes.
  bool ranks_channels() const { return ffn_ || heads_ || hidden_; }
  Importance importance() const { return importance_; }
  bool compensates() const { return compensates_; }
  double damping() const { return damping_; }

  /// What would be left. Throws Error(usage) with every problem.
  Sizes resolve(const Model& model) const;
  std::vector<Treatment> plan(const Model& model) const;

 private:
  std::optional<Amount> ffn_, heads_, hidden_, layers_;
  Importance importance_ = Importance::loss;
  bool compensates_ = true;
  double damping_ = 0.01;
};

}  // namespace llmc
