// Owns the backward pass of one decoder block: weights from the caller, a tape of what the forward pass keeps, gradients.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "model/attention.h"
#include "model/block_tensors.h"
#include "model/config.h"
#include "model/linear.h"

namespace llmc {

/// Several sequences in the rows of one matrix. Each starts at a multiple of attention_tile; the rows between are zero.
struct SequenceRows {
  struct Range {
    int64_t first = 0;
    int64_t length = 0;
  };

  explicit SequenceRows(std::span<const int64_t> lengths);

  /// Rows that are not between sequences.
  int64_t tokens() const;

  std::vector<Range> ranges;
  int64_t rows = 0;  ///< a multiple of attention_tile
};

/// What TrainableBlock::run keeps for backpropagate: about 6 matrices [rows, hidden] and 2 [rows, ffn]; and what both work in, about
/// 4 [rows, hidden] and one [rows, ffn]. Its memory is used again by the next run.
class BlockTape {
 public:
  BlockTape();
  /// Works in the memory that `other` works in: for tapes that go backward one after the other.
  explicit BlockTape(const BlockTape* other);
  ~BlockTape();
  BlockTape(BlockTape&&) noexcept;
  BlockTape& operator=(BlockTape&&) noexcept;

 private:
  friend class TrainableBlock;
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;
};

/// One decoder block with weights that change. Results are the same bits for any number of threads. Products are in the
/// options' precision, attention and all else in f32.
class TrainableBlock {
 public:
  TrainableBlock(const ModelConfig& config, Precision precision, MatmulBackend backend);
  ~TrainableBlock();
  TrainableBlock(TrainableBlock&&) noexcept;

  /// Takes the values to run with; all of the architecture's tensors must be there the first time. Only those given change.
  void set(const BlockTensors& values);

  /// out = block(hidden), both [rows, hidden].
  void run(const SequenceRows& sequences, ConstMatrixView hidden, MatrixView out, BlockTape& tape) const;

  /// From d_out, the gradient of a loss with respect to `out` (zero in the rows between sequences), and the tape of that
  /// run, which it uses up: writes the gradient of `hidden` to d_hidden unless that is empty, and adds those of the
  /// tensors that `gradients` holds. `hidden` is as it was for run. `attention` and `attention_weight` are as attend_backward takes
  /// them, of all rows, and so is what is returned, of all sequences.
  double backpropagate(const SequenceRows& sequences, ConstMatrixView hidden, ConstMatrixView d_out, BlockTape& tape, MatrixView d_hidden, BlockTensors& gradients, const AttentionTarget* attention = nullptr, float attention_weight = 0) const;

 private:
  struct Weights;
  std::unique_ptr<Weights> weights_;
};

}  // namespace llmc
