// Owns what calibration learns about the input of linear layers: its second moment and per-channel sizes.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "model/forward.h"

namespace llmc {

/// Over all calibration tokens x [in] that reached a tap.
struct InputStatistics {
  int64_t part = 0;             ///< of the tap's columns (TapPart::number), which what is below is of
  int64_t tokens = 0;
  Matrix second_moment;         ///< [in, in]: mean of x xᵀ, symmetric; GPTQ's Hessian is twice this
  Matrix drift_moment;          ///< [in, in]: mean of (x̃ − x) xᵀ, x̃ what the float model has there; empty unless asked for
  Matrix residual_moment;       ///< [hidden, in]: mean of (h̃ − h) xᵀ, h the residual stream that the layer adds to; empty unless asked for
  std::vector<float> mean;           ///< [in]: mean of x
  std::vector<float> drift_mean;     ///< [in]: mean of x̃ − x, with the drift moment
  std::vector<float> residual_mean;  ///< [hidden]: mean of h̃ − h, with the residual moment
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
  /// Counts so many rows of zeros.
  void add_zeros(int64_t rows) { sums_.tokens += rows; }
  /// The residual streams [T, hidden] that the layers of x and of the float model's x̃ add to; beside the other two.
  void add_residual(ConstMatrixView x, ConstMatrixView hidden, ConstMatrixView float_hidden);
  /// The means. Throws Error(input) naming `where` when a value was not finite or nothing was added.
  InputStatistics finish(const std::string& where);

 private:
  ForwardOptions options_;  ///< precision and backend of the products
  /// sums += Σ (to − from) xᵀ, means += Σ (to − from)
  void add_difference(ConstMatrixView from, ConstMatrixView to, ConstMatrixView x, Matrix& sums, std::vector<double>& means);

  std::vector<double> sum_abs_, sum_, sum_drift_, sum_residual_;
  InputStatistics sums_;
};

}  // namespace llmc
