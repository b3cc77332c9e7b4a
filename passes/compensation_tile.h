// Owns the recursion that GPTQ and SparseGPT share: columns become final one after another, and those to come make up for
// what each was changed by.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "model/linear.h"

namespace llmc {

/// `lanes` rows of a weight that are worked on together, kept as [in, lanes], so that a column of all rows is contiguous.
class CompensationTile {
 public:
  static constexpr int64_t lanes = 64;
  /// Columns after which changes are handed on to all later columns.
  static constexpr int64_t block = 128;

  /// `order`: the channels in the order in which they become final.
  CompensationTile(ConstMatrixView weights, std::span<const int64_t> order, int64_t first_row)
      : order_(order), first_row_(first_row), rows_(std::min(lanes, weights.rows - first_row)), current_(weights.cols, lanes) {
    for (int64_t i = 0; i < weights.cols; ++i)
      for (int64_t lane = 0; lane < rows_; ++lane) current_.row(i)[lane] = weights.row(first_row + lane)[order[static_cast<size_t>(i)]];
  }

  int64_t rows() const { return rows_; }
  int64_t first_row() const { return first_row_; }
  int64_t channel(int64_t i) const { return order_[static_cast<size_t>(i)]; }
  /// Column i of the rows: weights with the changes of earlier columns made up for, or the final values.
  const float* column(int64_t i) const { return current_.row(i); }

  /// Makes columns [begin, end), at most `block`, final: decide(i, lane, weight) gives the value of each, column by column.
  /// `upper` is that of a HessianFactor: the change of column i, over upper[i][i], goes by row i of it to the later ones
  /// (Frantar 2022, eq. 2 and 3; Frantar 2023, eq. 4).
  template <typename Decide>
  void finish_columns(ConstMatrixView upper, int64_t begin, int64_t end, Decide decide) {
    Matrix errors(end - begin, lanes);  // negative, so that adding their products subtracts
    for (int64_t i = begin; i < end; ++i) {
      float* error = errors.row(i - begin);
      float* column = current_.row(i);
      const float* row = upper.row(i);
      for (int64_t lane = 0; lane < rows_; ++lane) {
        const float value = decide(i, lane, column[lane]);
        error[lane] = (value - column[lane]) / row[i];
        column[lane] = value;
      }
      for (int64_t k = i + 1; k < end; ++k) add_scaled(current_.row(k), error, row[k]);
    }
    const int64_t in = current_.rows();
    if (end < in) add_transposed_product(default_backend(), 1, upper.row_range(begin, end - begin).column_range(end, in - end), errors.view(), current_.view().row_range(end, in - end));
  }

 private:
  static void add_scaled(float* to, const float* from, float factor) {
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] += from[lane] * factor;
  }

  std::span<const int64_t> order_;
  int64_t first_row_;
  int64_t rows_;
  Matrix current_;
};

}  // namespace llmc
