// Owns one tensor of a checkpoint in any of its forms: mapped floats, floats a pass made, codes on a grid, or encoded parts.
#pragma once

#include <cassert>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/tensor.h"
#include "formats/quantized_matrix.h"

namespace llmc {

struct Codec;

/// Floats in the tensor's own dtype and file layout, borrowed from a mapped file, or owned once a pass changed them. Between
/// passes they may be unrounded: the logical matrix in f32, for a later pass to work on before anything is lost.
class FloatData {
 public:
  FloatData() = default;
  explicit FloatData(std::span<const std::byte> borrowed) : bytes_(borrowed) {}
  explicit FloatData(std::vector<std::byte> owned) : owned_(std::move(owned)), bytes_(owned_) {}
  explicit FloatData(Matrix unrounded) : unrounded_(std::move(unrounded)) {}
  FloatData(FloatData&&) = default;             // a moved vector keeps its storage, so the span stays right
  FloatData& operator=(FloatData&&) = default;

  std::span<const std::byte> bytes() const { return assert(!find_unrounded()), bytes_; }
  const Matrix* find_unrounded() const { return unrounded_.empty() ? nullptr : &unrounded_; }

 private:
  std::vector<std::byte> owned_;
  std::span<const std::byte> bytes_;
  Matrix unrounded_;
};

/// Bytes that move but are never copied, so that views of them stay right.
struct OwnedBytes {
  OwnedBytes() = default;
  explicit OwnedBytes(std::vector<std::byte> values) : bytes(std::move(values)) {}
  OwnedBytes(OwnedBytes&&) = default;
  OwnedBytes& operator=(OwnedBytes&&) = default;

  std::vector<std::byte> bytes;
};

/// The parts a codec stored, still encoded; they borrow a mapped file, or `owned`.
struct EncodedData {
  const Codec* codec = nullptr;
  Scheme scheme;                            ///< meaningful when the codec holds codes
  std::map<std::string, TensorView> parts;  ///< by the codec's part names
  std::vector<int32_t> row_order;           ///< of a GGUF type: row r of the logical matrix (element r of a vector) is stored as row row_order[r]; empty: as stored
  OwnedBytes owned = {};                    ///< of blocks that a pass made
};

/// `dtype` and `shape` are those of the dense float tensor in the source checkpoint, whatever the form.
struct StoredTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  bool transposed = false;  ///< the file holds [in, out] (GPT-2's Conv1D); the logical matrix is [out, in]
  bool pruned = false;      ///< a pass made zeros, so codecs may store a mask
  bool moved = false;       ///< a pass moved scales or rotations between tensors: values no longer compare with the source's one by one
  std::variant<FloatData, QuantizedMatrix, EncodedData> form;
  std::optional<InputGrid> input_grid;  ///< calibrated, when the scheme of the codes rounds the layer's input on a static grid

  /// Logical matrix: [out, in]; a vector is one row.
  int64_t rows() const;
  int64_t cols() const;
  int64_t count() const;
};

/// The floats or the decoded codes of a tensor; nullptr for another form.
inline const FloatData* find_floats(const StoredTensor& tensor) { return std::get_if<FloatData>(&tensor.form); }
inline const QuantizedMatrix* find_codes(const StoredTensor& tensor) { return std::get_if<QuantizedMatrix>(&tensor.form); }

/// The scheme of a tensor that holds codes, decoded or not; nullptr for floats.
const Scheme* find_scheme(const StoredTensor& tensor);

/// Says which grid a layer's input is rounded on; its scale is one of make_static_grid in the type of the weight's scales.
/// Throws Error(bug) unless the tensor holds codes whose scheme has a static input.
void set_input_grid(StoredTensor& tensor, const InputGrid& grid);

/// How the layer's input is rounded while it runs; none for floats and weight-only schemes. Throws Error(input) when a
/// static scheme has no grid.
std::optional<InputQuantization> find_input_quantization(const StoredTensor& tensor);

/// What the encoded parts mean: FloatData or QuantizedMatrix. Other forms are left as they are. Throws Error(input).
void decode(StoredTensor& tensor);

/// The codes of a tensor that holds them, decoded if need be. Throws Error(input), Error(bug) for floats.
QuantizedMatrix read_codes(const StoredTensor& tensor);

/// The tensor's values as the logical f32 matrix [out, in], whatever the form. Throws Error(input).
Matrix read_matrix(const StoredTensor& tensor);

/// Whether both are stored floats with the same bytes in the same type, shape and layout.
bool hold_same_floats(const StoredTensor& a, const StoredTensor& b);

/// Rows of a tensor's logical matrix, one at a time: from the stored floats where those lie in rows, else from a matrix that is
/// read once. Borrows the tensor, which must keep its form.
class TensorRows {
 public:
  TensorRows() = default;
  /// Throws Error(input).
  explicit TensorRows(const StoredTensor& tensor);

  int64_t rows() const { return tensor_ ? tensor_->rows() : 0; }
  int64_t cols() const { return tensor_ ? tensor_->cols() : 0; }
  /// Whether they are read from bf16 floats.
  bool is_bf16() const { return tensor_ && values_.empty() && tensor_->dtype == DType::bf16; }
  void read(int64_t row, std::span<float> values) const;

 private:
  const StoredTensor* tensor_ = nullptr;
  Matrix values_;  ///< empty: as stored
};

/// Floats of the tensor in its dtype and file layout from a logical matrix; rounds to nearest where the dtype is narrower.
FloatData make_floats(const StoredTensor& tensor, ConstMatrixView logical);

/// Rounds unrounded floats to the tensor's dtype, once no pass is left; other forms are left as they are. Throws Error(input)
/// naming the tensor when a value is beyond the dtype's range.
void round_floats(StoredTensor& tensor);

}  // namespace llmc
