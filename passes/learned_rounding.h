// Owns learned rounding: the codes and scales of one decoder block, tuned together so that its output is the float model's.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "formats/quantized_matrix.h"
#include "passes/block_training.h"

namespace llmc {

struct LearnedRoundingOptions {
  int64_t iterations = 100;
  int64_t batch = 2;               ///< sequences in one step
  float rounding_rate = 0.01f;     ///< codes; it falls to 0 along a line, as all rates do
  float scale_rate = 0.002f;       ///< of the scale
  uint64_t seed = 0;
  Precision precision = Precision::bf16;  ///< of the products
  MatmulBackend backend = default_backend();
};

/// The relative squared errors Σ(out − target)² / Σ target² are those of the same few sequences.
struct LearnedRounding {
  std::map<Role, QuantizedMatrix> weights;
  double error_before = 0;
  double error_after = 0;
};

/// Tunes the weights that `start` holds, from the codes and scales there (of round-to-nearest, GPTQ, or any other method);
/// scales are rounded to their dtype. `values` are all tensors of the block as floats. Follows SignRound (Cheng 2023,
/// arXiv 2309.05516): minibatches of sequences, offsets and scales by gradients that pass straight through rounding; but
/// starts at another method's result, steps by Adam, and learns each scale apart from the offsets. Answers `start` when
/// that was better. The same result for any number of threads; `name` is the name of the random stream.
/// Throws Error(input) naming `name` when the errors are not finite.
LearnedRounding learn_rounding(const ModelConfig& config, const BlockTensors& values, std::map<Role, QuantizedMatrix> start, const BlockSamples& samples, const LearnedRoundingOptions& options, const std::string& name, const RunContext& context);

}  // namespace llmc
