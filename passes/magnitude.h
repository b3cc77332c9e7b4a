// Owns the choice of the smallest weights: pure functions from magnitudes to the ones that go.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"

namespace llmc {

/// Sets the `zeros` values of least magnitude to 0. Among equals the first ones go. Returns how many were not 0 before.
int64_t zero_smallest(std::span<float> values, int64_t zeros);

/// Keeps the `kept` largest magnitudes of every `block` neighbours (N:M sparsity). Returns how many were not 0 before.
int64_t zero_pattern(std::span<float> row, int64_t kept, int64_t block);

/// Finds a magnitude threshold over many tensors without holding them together: count every value of all tensors in one
/// pass, refine() and count them again, then zero() each.
class MagnitudeThreshold {
 public:
  explicit MagnitudeThreshold(int64_t zeros) : zeros_(zeros) {}
  void count(std::span<const float> values);
  /// Between the two counting passes, and after them.
  void refine();
  /// Zeroes what lies under the threshold, and of the values equal to it the first ones met, until the number is reached.
  int64_t zero(std::span<float> values);

 private:
  std::vector<int64_t> histogram_ = std::vector<int64_t>(size_t{1} << 16);
  int64_t zeros_ = 0;      ///< still to be found in the bins not yet decided
  uint32_t prefix_ = 0;    ///< upper half of the threshold's bits, then all of them
  int pass_ = 0;
};

}  // namespace llmc
