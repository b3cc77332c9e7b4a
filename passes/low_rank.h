// Owns a matrix that is learned as the product of two thin ones.
#pragma once

#include <cstdint>

#include "core/random.h"
#include "core/tensor.h"
#include "passes/adam.h"

namespace llmc {

/// V = B · A, B [rows, rank] and A [rank, cols] (Hu 2022, LoRA, arXiv 2106.09685): A starts at random, in rows of length √cols, B and so V
/// at 0. Both learn by Adam.
class LowRankMatrix {
 public:
  /// A rank above the smaller side is cut to it.
  LowRankMatrix(int64_t rows, int64_t cols, int64_t rank, Random random);

  int64_t parameters() const { return left_.rows() * left_.cols() + right_.rows() * right_.cols(); }
  Matrix values() const;
  /// One step against the gradient [rows, cols] of those values: of B by `rate`, of A, whose values are about 1, by a tenth of it.
  void update(const Matrix& gradient, float rate);

 private:
  Matrix left_, right_;
  Matrix left_mean_, left_square_, right_mean_, right_square_;
  int64_t steps_ = 0;
};

}  // namespace llmc
