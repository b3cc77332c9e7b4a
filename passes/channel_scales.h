// Owns the choice of channel scales for a fold site: AWQ's search for the least output error, and SmoothQuant's balance of ranges.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "calib/input_statistics.h"
#include "core/tensor.h"
#include "passes/rounding.h"

namespace llmc {

/// A consumer of a fold site whose weights will be rounded.
struct RoundedConsumer {
  ConstMatrixView weight;  ///< [out, in]
  Scheme scheme;
  DType scale_dtype = DType::f32;
  std::string where;       ///< the tensor's name
};

/// What the consumers have in common. Their columns read the channels that are scaled; several may share one.
struct ScaleProblem {
  std::vector<RoundedConsumer> consumers;
  const InputStatistics* input = nullptr;    ///< [in] of the consumers
  std::span<const int64_t> channel_of;       ///< [in]: as in FoldSite
  int64_t channels = 0;
};

struct AwqOptions {
  int steps = 20;                            ///< of the exponent, from 0 to 1
  RangeOptions range;                        ///< with which the consumers will be rounded
  int64_t most_rows = 512;                   ///< of each consumer that the search looks at, evenly spread
};

/// Scales [channels] with the consumers' output error that they leave, as a share of the error without them.
struct ScaleChoice {
  std::vector<float> scales;
  double error = 0;         ///< E|ΔW·x|² over the rows looked at, without scales
  double scaled_error = 0;  ///< with them
};

/// Lin 2023 (AWQ): s = x^r, or x^r / w^(1−r) as its later code has it, of the mean |x| of the channels and the mean |W| of their
/// columns, with the r of a grid that leaves the least E|ΔW·x|² = Σ rows ΔW·H·ΔWᵀ after round-to-nearest, ΔW = Q(W·s)/s − W,
/// H = E[x·xᵀ]. Exact on the calibration data, without a forward pass. Scales of 1 when nothing is better.
ScaleChoice search_awq_scales(const ScaleProblem& problem, const AwqOptions& options);

/// Xiao 2022 (SmoothQuant), eq. 4: s = max|x|^α / max|W|^(1−α), of each channel and of its columns in all consumers. A channel
/// without inputs or weights has scale 1.
std::vector<float> smoothquant_scales(const ScaleProblem& problem, double alpha);

}  // namespace llmc
