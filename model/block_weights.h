// Owns the weights of blocks and of the head in the form in which the forward pass takes them.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"
#include "model/experts.h"
#include "model/forward.h"
#include "model/linear.h"
#include "model/model.h"
#include "model/tap.h"

namespace llmc {

/// Calls body(row) for every row, a few at a time on each thread.
template <typename Body>
void for_each_row(int64_t rows, const Body& body) {
  parallel_pieces(rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) body(r);
  });
}

class NormWeights {
 public:
  NormWeights(const Model& model, Role role, int64_t block, int64_t head = -1);

  void apply(ConstMatrixView x, MatrixView y) const;
  int64_t width() const { return weight_.cols(); }

 private:
  Norm kind_;
  double epsilon_;
  Matrix weight_;  ///< [1, hidden], or of a head
  Matrix bias_;    ///< [1, hidden] or empty
};

std::optional<NormWeights> find_norm(const Model& model, Role role, int64_t block);

/// Copies x where there is no norm.
void apply(const std::optional<NormWeights>& norm, ConstMatrixView x, MatrixView y);

/// Norms of heads: one for all, each by itself or together, or one for each.
class HeadNorms {
 public:
  HeadNorms(const Model& model, Role role, int64_t block);

  /// In place; nothing where there are none.
  void apply(MatrixView rows) const;

 private:
  std::vector<NormWeights> norms_;
};

std::optional<Linear> find_linear(const Model& model, Role role, const ForwardOptions& options);

class BlockEntry {
 public:
  BlockEntry(const Model& model, Role role, int64_t block) : norm(find_norm(model, role, block)) {}

  std::optional<NormWeights> norm;    ///< or none
  std::optional<Linear> projection;  ///< of the head, or none
};

class StageWeights {
 public:
  StageWeights(const Model& model, int64_t block, Tap of, const ForwardOptions& options);

  const Linear& get(Role role) const { return linears.at(role); }
  const Linear* find(Role role) const {
    const auto linear = linears.find(role);
    return linear == linears.end() ? nullptr : &linear->second;
  }

  Tap tap;
  std::map<Role, Linear> linears;
  std::optional<Linear> joined;                     ///< query, key and value, or the gated unit, in place of linears
  std::optional<ExpertInputs> expert_inputs;        ///< of a model with experts, in place of linears
  std::optional<ExpertOutputs> expert_outputs;
  ModelConfig config;                               ///< of this block
  std::optional<HeadNorms> query_norms, key_norms;  ///< of the stage that makes them
  std::optional<NormWeights> output_norm;           ///< of what is added, or none
  std::optional<NormWeights> next_norm;             ///< in front of the feed-forward, or none
};

class BlockWeights {
 public:
  BlockWeights(const Model& model, int64_t block, const ForwardOptions& options);

  BlockEntry entry;
  std::array<StageWeights, all_taps.size()> stages;
};

class HeadWeights {
 public:
  HeadWeights(const Model& model, const ForwardOptions& options, const HeadWeights* other);

  BlockEntry entry;
  std::shared_ptr<const Linear> output;
  float cap;  ///< of logits; 0: none

 private:
  bool can_borrow(const HeadWeights& other) const { return !has_bias && !other.has_bias && hold_same_floats(stored, other.stored); }

  const StoredTensor& stored;
  bool has_bias;
};

}  // namespace llmc
