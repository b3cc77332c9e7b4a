// Owns one float tensor while it is learned: norms, biases, and the weights that pruning left.
#pragma once

#include "core/tensor.h"
#include "formats/stored_tensor.h"
#include "passes/adam.h"

namespace llmc {

/// Values in f32 that are run, and stored in the end, as the tensor's dtype rounds them; gradients pass straight through the
/// rounding. What is 0 at the start stays 0 if `zeros` says so.
class LearnedFloats {
 public:
  enum class Zeros { learned, kept };

  /// Starts at the values of `tensor`, which holds floats and is borrowed.
  LearnedFloats(const StoredTensor& tensor, Zeros zeros);

  /// The values as the dtype rounds them.
  void write_values(Matrix& values) const;
  /// One step against the gradient of those values; `rate` is a share of their root mean square at the start.
  void update(const Matrix& gradient, float rate, const AdamDecay& decay);
  /// As they are, unrounded.
  const Matrix& values() const { return values_; }

 private:
  const StoredTensor& tensor_;
  Zeros zeros_;
  Matrix values_, mean_, square_;
  float size_ = 0;  ///< root mean square at the start
  int64_t steps_ = 0;
};

}  // namespace llmc
