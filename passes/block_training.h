// Owns the training of one decoder block by itself: what is learned in it moves until its output is the float model's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "calib/activation_store.h"
#include "core/run_context.h"
#include "model/backward.h"
#include "model/block_tensors.h"
#include "model/config.h"

namespace llmc {

/// The sequences that a block is trained on. Reading may be called again and again, in any order, from one thread.
struct BlockSamples {
  std::vector<int64_t> lengths;  ///< tokens of each sequence
  /// Writes a sequence's hidden states [length, hidden]: as the compressed model's earlier blocks hand them on, and as the
  /// float model's block makes them of the float model's own.
  std::function<void(size_t sequence, MatrixView input, MatrixView target)> read;
};

/// What a sweep has of a block; both are borrowed.
BlockSamples make_block_samples(const ActivationStore& inputs, const ActivationStore& outputs);

/// What is learned in a block.
class BlockLearner {
 public:
  virtual ~BlockLearner() = default;
  /// Zeros in the shapes of the tensors whose gradients are wanted.
  virtual BlockTensors make_gradients() const = 0;
  /// The present values of the tensors that change; `values` has them in their shapes, with any content.
  virtual void write_values(BlockTensors& values) const = 0;
  /// One step; `left` is the share of all rates that is left. May write to `gradients`.
  virtual void update(BlockTensors& gradients, float left) = 0;
};

struct BlockTraining {
  int64_t iterations = 0;
  int64_t batch = 2;  ///< sequences in one step
  uint64_t seed = 0;
  std::string stream;  ///< the name of the random stream
  Precision precision = Precision::bf16;  ///< of the products
  MatmulBackend backend = default_backend();
};

/// The relative squared errors Σ(out − target)² / Σ target², of the same few sequences.
struct BlockErrors {
  double before = 0;
  double after = 0;
};

/// Steps on the mean squared error of the block's output, minibatches of sequences in a random order, rates falling to 0 along a line.
/// `values` are all tensors of the block as floats. The same result for any number of threads. Throws Error(input) naming `name` when the errors are not finite.
BlockErrors train_block(const ModelConfig& config, const BlockTensors& values, BlockLearner& learner, const BlockSamples& samples, const BlockTraining& training, const std::string& name, const RunContext& context);

}  // namespace llmc
