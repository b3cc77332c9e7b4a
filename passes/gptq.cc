#include "passes/gptq.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "model/linear.h"

namespace llmc {
namespace {

/// Rows that are worked on together, one in each lane, and columns after which errors are handed to all later columns.
constexpr int64_t lanes = 64;
constexpr int64_t block = 128;

/// The rounding of `lanes` rows at a time. Matrices are kept as [in, lanes], so that a column of all rows is contiguous.
class RowTile {
 public:
  RowTile(QuantizedMatrix& result, ConstMatrixView weights, std::span<const int64_t> order, int64_t first_row)
      : result_(result), order_(order), first_row_(first_row), rows_(std::min(lanes, weights.rows - first_row)), current_(weights.cols, lanes) {
    for (int64_t i = 0; i < weights.cols; ++i)
      for (int64_t lane = 0; lane < rows_; ++lane) current_.row(i)[lane] = weights.row(first_row + lane)[order[static_cast<size_t>(i)]];
  }

  /// GPTQ's pass.
  void compensate(ConstMatrixView upper) {
    const int64_t in = current_.rows();
    Matrix errors(block, lanes);  // negative, so that adding their products subtracts
    for (int64_t begin = 0; begin < in; begin += block) {
      const int64_t end = std::min(in, begin + block);
      for (int64_t i = begin; i < end; ++i) {
        float* error = errors.row(i - begin);
        const float* row = upper.row(i);
        round_column(i, [&](int64_t lane, float weight, float value) { error[lane] = (value - weight) / row[i]; });
        for (int64_t k = i + 1; k < end; ++k) add_scaled(current_.row(k), error, row[k]);
      }
      if (end < in) hand_on(upper.row_range(begin, end - begin).column_range(end, in - end), errors.view().row_range(0, end - begin), current_.view().row_range(end, in - end));
    }
  }

 private:
  int64_t channel(int64_t i) const { return order_[static_cast<size_t>(i)]; }
  int64_t scale_at(int64_t lane, int64_t i) const { return result_.scale_index(first_row_ + lane, channel(i)); }
  int8_t& code_at(int64_t lane, int64_t i) const { return result_.codes[static_cast<size_t>((first_row_ + lane) * result_.cols + channel(i))]; }

  static void add_scaled(float* to, const float* from, float factor) {
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] += from[lane] * factor;
  }
  /// to [K, lanes] += aᵀ [K, block] · from [block, lanes]
  static void hand_on(ConstMatrixView a, ConstMatrixView from, MatrixView to) { add_transposed_product(default_backend(), 1, a, from, to); }

  /// Rounds column i of every row and tells `use` the weight and the value it got.
  void round_column(int64_t i, auto&& use) {
    float* column = current_.row(i);
    for (int64_t lane = 0; lane < rows_; ++lane) {
      const Grid grid = get_grid(result_, scale_at(lane, i));
      const float code = grid.code(column[lane]);
      code_at(lane, i) = static_cast<int8_t>(code);
      use(lane, column[lane], grid.value(code));
    }
  }

  QuantizedMatrix& result_;
  std::span<const int64_t> order_;
  int64_t first_row_;
  int64_t rows_;
  Matrix current_;  ///< [in, lanes] in the order of rounding: weights with the errors of earlier columns handed on
};

}  // namespace

QuantizedMatrix quantize_gptq(ConstMatrixView weights, const HessianFactor& factor, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where) {
  const int64_t in = weights.cols;
  assert(factor.upper.rows() == in);
  QuantizedMatrix result = make_quantized_matrix(scheme, scale_dtype, weights.rows, in, where);
  choose_grids(weights, {}, range, where, result);
  parallel_pieces(weights.rows, lanes, [&](int64_t first, int64_t) {
    RowTile(result, weights, factor.order, first).compensate(factor.upper.view());
  });
  return result;
}

}  // namespace llmc
