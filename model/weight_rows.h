// Owns how backends read the weights that they pack: row by row, of one weight or of several one below the other.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "formats/stored_tensor.h"

namespace llmc {

/// The rows of a weight [out, in], and its bias; an empty one is zero.
struct WeightRows {
  TensorRows rows;
  Matrix bias;
};

/// (first, count) to rows [count, in], on any thread, for use until the thread's next call.
using ReadRows = std::function<ConstMatrixView(int64_t, int64_t)>;

/// Of weights one below the other, which are borrowed.
ReadRows read_rows_of(std::span<const WeightRows> weights);
/// Of values, which are borrowed.
ReadRows read_rows_of(ConstMatrixView values);

/// [out of all], with zeros for an empty one.
std::vector<float> join_biases(std::span<const WeightRows> weights);

}  // namespace llmc
