// Owns the backward pass of a whole model: every block with its tape, embeddings and head, and gradients one block at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/backward.h"
#include "model/block_tensors.h"
#include "model/head_loss.h"

namespace llmc {

/// What a backward pass hands its gradients to, from the last block to the first and at the end those outside of blocks
/// (block −1, as in read_block). One block's gradients are in memory at a time.
class GradientReader {
 public:
  virtual ~GradientReader() = default;
  /// Zeros in the shapes of the tensors whose gradients are wanted.
  virtual BlockTensors prepare(int64_t block) = 0;
  virtual void take(int64_t block, BlockTensors gradients) = 0;
};

/// What of the forward pass is in memory when the backward pass comes.
enum class Activations {
  kept,        ///< the tapes of all blocks (BlockTape)
  recomputed,  ///< one tape: each block runs again, from its input, before it goes backward (activation checkpointing, Chen 2016)
};

/// A model with weights that change. Results are the same bits for any number of threads, and whether activations are kept or not.
/// Memory: the weights in both directions, for a batch of T rows the tapes and a matrix [T, hidden] for each block.
class TrainableModel {
 public:
  TrainableModel(const ModelConfig& config, Precision precision, MatmulBackend backend, Activations activations = Activations::kept);
  ~TrainableModel();
  TrainableModel(TrainableModel&&) noexcept;

  /// Takes the values to run with; all tensors of the model must be there the first time. Only those given change. A tied
  /// head follows the token embedding.
  void set(int64_t block, const BlockTensors& values);

  /// `tokens`, one for each row; those of rows between sequences are not read. Throws Error(input) for a token outside the
  /// vocabulary or a sequence longer than the table of positions.
  void run(const SequenceRows& sequences, std::span<const int32_t> tokens);
  /// Hidden states after the last block [rows, hidden], of the last run.
  ConstMatrixView hidden() const;
  /// Adds to the gradient [rows, hidden] of the states after so many blocks, for a loss of theirs; called for all, the last first.
  using HiddenLoss = std::function<void(int64_t blocks, ConstMatrixView hidden, MatrixView d_hidden)>;
  /// The gradient of the weighted loss (TrainableHead::backpropagate), and of `hidden_loss` if there is one, goes through the last run, which it uses up, to
  /// `reader`. `attention`, of all rows, has one target for each block, or none at all: then weights.attention counts for nothing.
  HeadLosses backpropagate(const LossWeights& weights, const TrainableHead::Teacher& teacher, std::span<const int32_t> labels, GradientReader& reader, const HiddenLoss& hidden_loss = {}, std::span<const AttentionTarget> attention = {});

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace llmc
