#include "model/weight_rows.h"

#include <algorithm>

#include "model/matmul.h"

namespace llmc {

ReadRows read_rows_of(std::span<const WeightRows> weights) {
  return [weights](int64_t first, int64_t count) {
    const int64_t cols = weights[0].rows.cols();
    const MatrixView rows{thread_scratch<float, 7>(static_cast<size_t>(count * cols)).data(), count, cols, cols};
    size_t of = 0;
    for (int64_t r = 0; r < count; ++r, ++first) {
      for (; first >= weights[of].rows.rows(); ++of) first -= weights[of].rows.rows();
      weights[of].rows.read(first, rows.row_span(r));
    }
    return ConstMatrixView(rows);
  };
}

ReadRows read_rows_of(ConstMatrixView values) {
  return [values](int64_t first, int64_t count) { return values.row_range(first, count); };
}

std::vector<float> join_biases(std::span<const WeightRows> weights) {
  std::vector<float> biases;
  for (const WeightRows& weight : weights) {
    const size_t end = biases.size() + static_cast<size_t>(weight.rows.rows());
    biases.insert(biases.end(), weight.bias.values().begin(), weight.bias.values().end());
    biases.resize(end);
  }
  return biases;
}

}  // namespace llmc
