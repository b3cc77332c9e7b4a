// Owns what the trainable block and head are made of: tiles of rows, norms and linear weights that run both ways.
#pragma once

#include <optional>
#include <span>

#include "core/parallel.h"
#include "core/tensor.h"
#include "model/block_tensors.h"
#include "model/linear.h"
#include "model/matmul.h"

namespace llmc {

/// Rows that one task works on, for any number of threads.
inline constexpr int64_t trainable_tile = PackedMatrix::tile_rows;

/// Calls body(first, rows) for every tile of rows.
template <typename Body>
void for_each_tile(int64_t rows, const Body& body) {
  parallel_pieces(rows, trainable_tile, [&](int64_t first, int64_t last) { body(first, last - first); });
}

/// A matrix of this thread's own until the next one of the same slot; slots 0 to 3 are those of products and attention.
template <int slot>
MatrixView scratch_tile(int64_t rows, int64_t cols) {
  return {thread_scratch<float, slot>(static_cast<size_t>(rows * cols)).data(), rows, cols, cols};
}

/// sums [1, cols] += Σ over rows, in order.
void add_column_sums(ConstMatrixView x, Matrix& sums);

/// One weight in both directions.
struct TrainableLinear {
  TrainableLinear(const Matrix& weight, const Matrix* bias, Precision precision, MatmulBackend backend);

  Linear forward;
  Linear backward;  ///< Wᵀ: gradients go from outputs to inputs
};

struct TrainableNorm {
  Norm kind = Norm::rms;
  double epsilon = 0;
  double offset = 0;  ///< added to the weight as it is stored
  Matrix weight;      ///< [1, hidden], or of a head or all heads, with the offset; empty: there is no such norm
  Matrix bias;        ///< [1, hidden] or empty

  explicit TrainableNorm(const ModelConfig& config) : kind(config.norm), epsilon(config.norm_epsilon), offset(config.norm_offset) {}
  bool is_there() const { return !weight.empty(); }
  /// Takes those values of the role that are there.
  void set(const BlockTensors& values, Role role);
  /// y = x where there is no such norm.
  void apply(ConstMatrixView x, MatrixView y) const;
  /// From the gradient of y to that of x, in place; adds to d_weight and d_bias unless they are empty.
  void apply_back(ConstMatrixView x, MatrixView d, std::span<float> d_weight, std::span<float> d_bias) const;
  /// The same for every head of every row.
  void apply_to_heads(ConstMatrixView x, MatrixView y) const;
  void apply_back_to_heads(ConstMatrixView x, MatrixView d, std::span<float> d_weight) const;
};

/// Shares of a norm's gradients, one row for each tile, so that they are added up in order.
class NormGradients {
 public:
  /// Of the tensors of the role that `gradients` holds.
  NormGradients(BlockTensors& gradients, Role role, int64_t tiles, int64_t width);

  std::span<float> weight_share(int64_t tile) { return weight_ ? weights_.view().row_span(tile) : std::span<float>(); }
  std::span<float> bias_share(int64_t tile) { return bias_ ? biases_.view().row_span(tile) : std::span<float>(); }
  /// Adds the shares to the gradients.
  void finish() const;

 private:
  Matrix* weight_;
  Matrix* bias_;
  Matrix weights_;
  Matrix biases_;
};

}  // namespace llmc
