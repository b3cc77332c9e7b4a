// Owns feed-forwards of several experts: which of them a token goes through, and their products for those tokens alone.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "model/forward.h"
#include "model/linear.h"
#include "model/model.h"

namespace llmc {

/// An expert that a token goes through, and what it counts for there.
struct RoutedExpert {
  int64_t expert = 0;
  float share = 0;

  bool operator==(const RoutedExpert&) const = default;
};

/// The `count` experts of the highest probability by softmax(logits), the highest first, of equal ones the lower number
/// (Shazeer 2017, section 2.1; Jiang 2024, section 2.2). Their shares are those probabilities; `normalizes`: over their sum.
/// `logits` [experts] become probabilities.
std::vector<RoutedExpert> route(std::span<float> logits, int64_t count, bool normalizes);

/// The tokens that go through a part of the feed-forward: an expert, or the shared one.
struct PartTokens {
  std::vector<int64_t> rows;  ///< ascending
  std::vector<float> shares;
};

/// The rows of two matrices of one shape that are not zeros in both, ascending.
std::vector<int64_t> routed_rows(ConstMatrixView a, ConstMatrixView b);
Matrix take_rows(ConstMatrixView from, const std::vector<int64_t>& rows);

/// What reads the feed-forward's input: routers, in f32 whatever the precision, and the first matrices of every part.
class ExpertInputs {
 public:
  ExpertInputs(const Model& model, int64_t block, const ForwardOptions& options);

  /// By part (list_parts), of the normalized hidden states [T, hidden].
  std::vector<PartTokens> assign(ConstMatrixView normed) const;
  /// [tokens.rows.size(), width of the part]: activation(gate) · up of those rows, times their shares.
  Matrix run(size_t part, const PartTokens& tokens, ConstMatrixView normed) const;
  /// The tap's input [T, ffn] (Tap::ffn_activation).
  void run_all(ConstMatrixView normed, MatrixView activation) const;

 private:
  struct Part {
    Linear gate, up;
  };
  ModelConfig config_;
  std::vector<TapPart> columns_;  ///< of the parts
  Linear router_;
  std::optional<Linear> shared_router_;
  std::vector<Part> parts_;
};

/// The matrices behind them.
class ExpertOutputs {
 public:
  ExpertOutputs(const Model& model, int64_t block, const ForwardOptions& options);

  size_t parts() const { return parts_.size(); }
  Matrix run(size_t part, const Matrix& active) const;
  /// y [T, hidden] of the tap's input [T, ffn]; the zeros of a token in a part are not multiplied.
  void run_all(ConstMatrixView activation, MatrixView y) const;

 private:
  std::vector<TapPart> columns_;
  std::vector<Linear> parts_;
};

/// y [T, hidden] of the normalized hidden states [T, hidden]: the bits of both run_all() one after the other, without the matrix
/// between them. A token's result depends on none behind it. Memory: a matrix [T, hidden] for each expert of a token.
void run_experts(const ExpertInputs& inputs, const ExpertOutputs& outputs, ConstMatrixView normed, MatrixView y);

}  // namespace llmc
