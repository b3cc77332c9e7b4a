// Owns what calibration learns about the input of linear layers: its second moment and per-channel sizes.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "model/forward.h"

namespace llmc {

/// Over all calibration tokens x [in] that reached a tap.
struct InputStatistics {
  int64_t tokens = 0;
  Matrix second_moment;         ///< [in, in]: mean of x xᵀ, symmetric; GPTQ's Hessian is twice this
  Matrix drift_moment;          ///< [in, in]: mean of (x̃ − x) xᵀ, x̃ what the float model has there; empty unless asked for
  std::vector<float> mean_abs;  ///< [in]: mean of |x|
  std::vector<float> max_abs;   ///< [in]: max of |x|

  int64_t in() const { return second_moment.rows(); }
  /// Mean of x², per channel: the diagonal.
  std::vector<float> mean_square() const;
};

/// Adds up InputStatistics, sequence by sequence in a fixed order, on all cores; the same bits for any number of threads.
class InputAccumulator {
 public:
  InputAccumulator(int64_t in, const ForwardOptions& options);
  /// x [T, in].
  void add(ConstMatrixView x);
  /// The same with the float model's x̃ [T, in] beside it. All of an accumulator's calls are of one kind.
  void add(ConstMatrixView x, ConstMatrixView float_x);
  /// The means. Throws Error(input) naming `where` when a value was not finite or nothing was added.
  InputStatistics finish(const std::string& where);

 private:
  ForwardOptions options_;  ///< precision and backend of the products
  std::vector<double> sum_abs_;
  InputStatistics sums_;
};

}  // namespace llmc
