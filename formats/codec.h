// Owns the interface of codecs: how one tensor's meaning becomes stored parts and comes back exactly.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "formats/safetensors.h"
#include "formats/stored_tensor.h"

namespace llmc {

/// A stored part: `layout.name` is the part's name within the tensor ("mask", "codes", "scales", …).
struct EncodedPart {
  TensorLayout layout;
  std::vector<std::byte> own;             ///< empty where the tensor itself holds what is stored
  std::span<const std::byte> of_tensor;   ///< empty where `own` is not

  std::span<const std::byte> bytes() const { return own.empty() ? of_tensor : own; }
};

/// One row per codec. For every tensor that `fits`: decode(encode(x)) == x exactly, and layout(x) names the very parts,
/// types and shapes that encode(x) makes.
struct Codec {
  std::string_view name;
  std::string_view summary;
  bool holds_codes = false;  ///< stores codes of a scheme, not floats
  bool (*fits)(const StoredTensor& tensor);
  std::vector<TensorLayout> (*layout)(const StoredTensor& tensor);
  std::vector<EncodedPart> (*encode)(const StoredTensor& tensor);
  /// `tensor` gives name, dtype, shape and layout; `data` the parts. Throws Error(input) when they contradict.
  std::variant<FloatData, QuantizedMatrix> (*decode)(const StoredTensor& tensor, const EncodedData& data);
};

/// Bytes on disk of the parts of a layout.
uint64_t stored_bytes(const std::vector<TensorLayout>& layout);

/// The part of that name, type and shape. Throws Error(input) with tensor, part, expected and found.
const TensorView& get_part(const StoredTensor& tensor, const EncodedData& data, const std::string& part, DType dtype, const Shape& shape);

/// The types that scales and centroids are stored in: F32, F16, BF16.
bool is_scale_float(DType dtype);
/// The type of the scales (or centroids) that a part holds: what the scheme fixes, else that of the part, which is F32, F16
/// or BF16. Throws Error(input).
DType find_scale_dtype(const StoredTensor& tensor, const EncodedData& data, const std::string& part);
/// The type of a part that holds such scales: E8M0 is stored as U8, for readers that do not know it.
DType stored_scale_dtype(DType scale_dtype);

/// Scales as stored in their dtype, and back with a check that every one is finite (Error(input)).
std::vector<std::byte> encode_scales(const QuantizedMatrix& matrix);
void decode_scales(const StoredTensor& tensor, const TensorView& part, QuantizedMatrix& matrix);
/// The scale of a whole tensor, F32 [1], finite and positive (Error(input)).
std::vector<std::byte> encode_global_scale(const QuantizedMatrix& matrix);
void decode_global_scale(const StoredTensor& tensor, const TensorView& part, QuantizedMatrix& matrix);

/// Throws Error(input) when a code is none of its scheme's.
void check_codes(const StoredTensor& tensor, const QuantizedMatrix& matrix);

}  // namespace llmc
