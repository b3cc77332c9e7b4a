// Owns one float tensor while it is learned.
#pragma once

#include <array>
#include <utility>

#include "core/tensor.h"
#include "formats/stored_tensor.h"
#include "passes/optimizer.h"

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
  /// One step against the gradient of those values.
  void update(const Matrix& gradient, const OptimizerStep& step);
  /// Root mean square of the values at the start, for rates that are shares of it.
  float size() const { return size_; }
  /// As they are, unrounded.
  const Matrix& values() const { return values_; }

  /// All that a step depends on, by name, to be kept and put back; beside it the number of steps done.
  std::array<std::pair<const char*, Matrix*>, 3> state() { return {{{"value", &values_}, {"mean", &mean_}, {"square", &square_}}}; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  const StoredTensor& tensor_;
  Zeros zeros_;
  Matrix values_, mean_, square_;
  float size_ = 0;  ///< root mean square at the start
  int64_t steps_ = 0;
};

}  // namespace llmc
