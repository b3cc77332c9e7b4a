// Owns the product of activations with one weight matrix, on the fastest backend there is.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "formats/stored_tensor.h"
#include "model/config.h"

namespace llmc {

enum class Precision {
  f32,   ///< f32 operands, f32 accumulation
  bf16,  ///< operands rounded to bf16 (ties to even), exact products, f32 accumulation
};
enum class MatmulBackend { amx, onednn, highway, eigen };

/// What is done with the zeros of a weight.
enum class Zeros {
  skipped,     ///< in f32, where they are so many that it is faster (model/sparse_matrix.h); else multiplied
  multiplied,  ///< always
};

std::string_view to_string(Precision precision);
std::string_view to_string(MatmulBackend backend);
/// "f32", "bf16". Throws Error(usage) naming `what`.
Precision parse_precision(const std::string& text, const std::string& what);
/// Whether this build and this processor have the backend. Eigen is always there.
bool has_backend(MatmulBackend backend);
/// The fastest there is: AMX where the processor has it, else oneDNN where the build has it and the processor AVX-512, else
/// llmc's own products by Highway.
MatmulBackend default_backend();

/// A weight [out, in] and its bias or nullptr.
struct StoredLinear {
  const StoredTensor& weight;
  const StoredTensor* bias;
};

/// y = x · Wᵀ + b with W [out, in]. A weight whose scheme rounds the layer's input runs as find_execution says, in integers
/// where it can, whatever the precision; of other weights the zeros may be skipped, which depends on their values alone. A row of y depends, bit for bit, on that row of x and its place modulo 64 only: not on
/// the number of threads, nor on the other rows. Another processor may give other last bits.
class Linear {
 public:
  /// Reads the weight (and the bias, unless nullptr) in whatever form it is. Throws Error(input).
  Linear(const StoredTensor& weight, const StoredTensor* bias, Precision precision, MatmulBackend backend, Zeros zeros = Zeros::skipped);
  /// Of f32 values, which are copied; an empty bias is zero.
  Linear(ConstMatrixView weight, std::span<const float> bias, Precision precision, MatmulBackend backend);
  /// Of weights one below the other: y holds what each gives, side by side. nullopt where the backend does not do such weights so.
  static std::optional<Linear> make_joined(std::span<const StoredLinear> weights, Precision precision, MatmulBackend backend, Zeros zeros);
  /// y = activation(x · Gᵀ + g) ⊙ (x · Uᵀ + u) (Shazeer 2020, [arXiv 2002.05202](https://arxiv.org/abs/2002.05202)) in one, bit for
  /// bit what two of these and the kernels `activate` and `multiply_by` give. nullopt where the backend does not do such weights so.
  static std::optional<Linear> make_gated(const StoredLinear& gate, const StoredLinear& up, Activation activation, Precision precision, MatmulBackend backend, Zeros zeros);
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;
  ~Linear();

  int64_t in() const;
  int64_t out() const;
  /// Whether its zeros are skipped, in a part of its rows at least.
  bool is_sparse() const;
  /// x [T, in], y [T, out]; y is overwritten.
  void apply(ConstMatrixView x, MatrixView y) const;
  /// y += x · Wᵀ + b
  void add(ConstMatrixView x, MatrixView y) const;
  /// y += next(this(x)) bit for bit, without this(x) in memory. False, and y as it was, where the backend does not do that.
  bool add_through(const Linear& next, ConstMatrixView x, MatrixView y) const;

 private:
  Linear();

  struct Weights;
  std::unique_ptr<Weights> weights_;
};

/// C = alpha · A · op(B) for the small products inside attention, on one thread. `transpose_b`: B is [N, K] and taken
/// transposed. The same shapes and values give the same bits.
enum class Transpose { no, yes };
void multiply(MatmulBackend backend, float alpha, ConstMatrixView a, ConstMatrixView b, Transpose transpose_b, MatrixView c);
/// C += alpha · Aᵀ · B with A [K, M] and B [K, N], on one thread.
void add_transposed_product(MatmulBackend backend, float alpha, ConstMatrixView a, ConstMatrixView b, MatrixView c);

/// dW += dYᵀ · X with dy [T, out], x [T, in], dw [out, in]: the gradient of a Linear's weight from that of its output. The
/// same bits for any number of threads.
void add_weight_gradient(MatmulBackend backend, Precision precision, ConstMatrixView dy, ConstMatrixView x, MatrixView dw);
/// The upper triangle of sums += Xᵀ · X with x [T, in], sums [in, in]: equal to add_weight_gradient(x, x) there. What is below
/// the diagonal is left undefined. The same bits for any number of threads.
void add_second_moment(MatmulBackend backend, Precision precision, ConstMatrixView x, MatrixView sums);

}  // namespace llmc
