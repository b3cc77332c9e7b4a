// Owns which weights a prune step works on and how many of them go: the part that is the same for every method.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/json.h"
#include "passes/mask.h"
#include "passes/pass.h"
#include "passes/selection.h"

namespace llmc {

/// Options: sparsity (share of weights that become 0; implied by N:M), pattern (unstructured, N:M, block:RxC), scope (tensor,
/// row, global: over what scores are ranked; not with N:M), include, exclude.
class PruneTargets {
 public:
  /// Reads its options from a step; the caller reads the method's own and calls finish().
  PruneTargets(FieldReader& fields, RankScope default_scope, const std::string& where);

  /// The options in effect, without "pass".
  nlohmann::json options() const;
  const SparsityPattern& pattern() const { return pattern_; }
  RankScope scope() const { return scope_; }
  double sparsity() const { return sparsity_; }

  /// In model order. Throws Error(usage) with every problem.
  std::vector<const PlacedTensor*> resolve(const Model& model) const;
  std::vector<Treatment> plan(const Model& model) const;
  /// Zeros that a tensor ends with, by plan, when that share of it goes.
  int64_t planned_zeros(const StoredTensor& tensor, double sparsity) const;

 private:
  SparsityPattern pattern_;
  RankScope scope_ = RankScope::tensor;
  double sparsity_ = 0;
  Selection selection_;
};

/// A weight that is to be pruned, and what share of it goes.
struct PruneTarget {
  const PlacedTensor* placed = nullptr;
  double sparsity = 0;
};

/// What a prune step did, counted over its tensors, for the report.
class PruneCount {
 public:
  /// Of a tensor after pruning; `changed` of its zeros were not 0 before.
  void add(int64_t weights, int64_t zeros, int64_t changed);
  /// Throws Error(bug) when there are fewer zeros than planned, Error(input) when there was nothing left to make 0.
  nlohmann::json finish(const PruneTargets& targets, int64_t planned) const;

 private:
  int64_t weights_ = 0;
  int64_t zeros_ = 0;
  int64_t changed_ = 0;
  int64_t tensors_ = 0;
};

}  // namespace llmc
