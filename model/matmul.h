// Owns the seam between Linear and the libraries that multiply matrices: one row per backend.
#pragma once

#include <cstdlib>
#include <memory>
#include <span>
#include <string_view>

#include "core/tensor.h"
#include "model/linear.h"
#include "model/weight_rows.h"

namespace llmc {

/// One weight matrix (and bias) in the layout its backend multiplies fastest. Safe to call from several threads.
class PackedMatrix {
 public:
  /// Results may depend on a row's place in such a tile, for any number of threads.
  static constexpr int64_t tile_rows = 64;

  virtual ~PackedMatrix() = default;
  /// A multiple of tile_rows. More rows at once read the weights from memory less often.
  virtual int64_t most_rows() const { return tile_rows; }
  /// y = x · Wᵀ + b for at most most_rows() rows, on this thread alone. A row of y depends on the same row of x and on its
  /// place modulo tile_rows, not on the number of rows.
  virtual void apply(ConstMatrixView x, MatrixView y) const = 0;
  /// y += x · Wᵀ + b, bit for bit what a sum with apply's result is.
  virtual void add(ConstMatrixView x, MatrixView y) const;
  /// Whether add_through takes it.
  virtual bool feeds(const PackedMatrix& /*next*/) const { return false; }
  /// next.add of what apply gives for x, without that in memory as f32; bit for bit the same.
  virtual void add_through(const PackedMatrix& /*next*/, ConstMatrixView /*x*/, MatrixView /*y*/) const { std::abort(); }
};

/// B of products that take a part of it each, as those inside attention do. Safe to call from several threads.
class PackedFactor {
 public:
  virtual ~PackedFactor() = default;
  /// Once, on any thread, before the first product; what it needs of memory it has.
  virtual void pack() {}
  /// C = alpha · A · op(B)[row…, column…] of as many rows of op(B) as A has columns and as many columns as C has, on this thread
  /// alone. Both start at multiples of 32, and A ends at one or where op(B) does. A row of C depends on that row of A alone.
  virtual void multiply(float alpha, ConstMatrixView a, int64_t row, int64_t column, MatrixView c) const = 0;
};

/// A gated unit activation(x · Gᵀ + g) ⊙ (x · Uᵀ + u).
struct GatedRows {
  WeightRows gate, up;
  Activation activation;
};

struct MatmulRow {
  MatmulBackend backend;
  std::string_view name;
  double f32_time = 1;  ///< of a dense f32 product beside those that skip zeros; 1: as by oneDNN with AVX-512
  /// `weight` [out, in] is read during the call only; an empty bias is zero.
  std::unique_ptr<PackedMatrix> (*pack)(ConstMatrixView weight, std::span<const float> bias, Precision precision);
  /// The same of weights one below the other whose rows are read one at a time, so that they are never in memory as f32; nullptr
  /// where the backend takes all of one at once.
  std::unique_ptr<PackedMatrix> (*pack_rows)(std::span<const WeightRows> weights, Precision precision);
  /// Both products of a gated unit at once, bit for bit those of pack_rows; nullptr where that is no faster.
  std::unique_ptr<PackedMatrix> (*pack_gated)(const GatedRows& of, Precision precision);
  /// C = alpha · A · op(B), on this thread alone.
  void (*multiply)(float alpha, ConstMatrixView a, ConstMatrixView b, Transpose transpose_b, MatrixView c);
  /// Reads B when it is packed only. nullptr where `multiply` is as fast.
  std::unique_ptr<PackedFactor> (*pack_factor)(ConstMatrixView b, Transpose transpose_b, Precision precision);
  /// C += alpha · Aᵀ · B, on this thread alone.
  void (*add_transposed)(float alpha, ConstMatrixView a, ConstMatrixView b, MatrixView c);
  /// C += Aᵀ · B of bf16 operands, dense [depth, C's rows] and [depth, C's columns], on this thread alone. Answers false and
  /// leaves C alone where this processor or this backend has no bf16 products.
  bool (*add_transposed_bf16)(std::span<const uint16_t> a, std::span<const uint16_t> b, int64_t depth, MatrixView c);
};

/// The backends that there are in this build and on this processor, best first.
std::span<const MatmulRow> matmul_list();

/// B in the backend's form, still to be packed, or a view of it, which then must outlive the factor. Where the backend has no form of its own, products
/// are f32 whatever the precision.
std::unique_ptr<PackedFactor> pack_factor(MatmulBackend backend, Precision precision, ConstMatrixView b, Transpose transpose);

std::unique_ptr<PackedMatrix> pack_highway(ConstMatrixView weight, std::span<const float> bias, Precision precision);
std::unique_ptr<PackedMatrix> pack_highway_rows(std::span<const WeightRows> weights, Precision precision);
std::unique_ptr<PackedFactor> pack_highway_factor(ConstMatrixView b, Transpose transpose, Precision precision);
std::unique_ptr<PackedMatrix> pack_eigen(ConstMatrixView weight, std::span<const float> bias, Precision precision);
void multiply_eigen(float alpha, ConstMatrixView a, ConstMatrixView b, Transpose transpose_b, MatrixView c);
void add_transposed_eigen(float alpha, ConstMatrixView a, ConstMatrixView b, MatrixView c);
bool add_transposed_bf16_eigen(std::span<const uint16_t> a, std::span<const uint16_t> b, int64_t depth, MatrixView c);
#ifdef LLMC_ONEDNN
std::unique_ptr<PackedMatrix> pack_onednn(ConstMatrixView weight, std::span<const float> bias, Precision precision);
void multiply_onednn(float alpha, ConstMatrixView a, ConstMatrixView b, Transpose transpose_b, MatrixView c);
void add_transposed_onednn(float alpha, ConstMatrixView a, ConstMatrixView b, MatrixView c);
bool add_transposed_bf16_onednn(std::span<const uint16_t> a, std::span<const uint16_t> b, int64_t depth, MatrixView c);
#endif

/// At least `count` elements that belong to this thread, for use before the next call with the same type and slot.
template <typename T, int slot = 0>
std::span<T> thread_scratch(size_t count) {
  thread_local std::vector<T> values;
  if (values.size() < count) values.resize(count);
  return std::span(values).first(count);
}

}  // namespace llmc
