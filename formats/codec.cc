#include "formats/codec.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "core/error.h"

namespace llmc {

uint64_t stored_bytes(const std::vector<TensorLayout>& layout) {
  uint64_t bytes = 0;
  for (const TensorLayout& part : layout) bytes += static_cast<uint64_t>(part.bytes());
  return bytes;
}

const TensorView& get_part(const StoredTensor& tensor, const EncodedData& data, const std::string& part, DType dtype, const Shape& shape) {
  const auto it = data.parts.find(part);
  if (it == data.parts.end()) throw Error(ErrorKind::input, fmt::format("tensor {}: part {} is missing", tensor.name, part));
  const TensorView& found = it->second;
  if (found.dtype != dtype || found.shape != shape)
    throw Error(ErrorKind::input, fmt::format("tensor {}: part {}: expected {} {}, found {} {}", tensor.name, part, get_info(dtype).name, to_string(shape), get_info(found.dtype).name, to_string(found.shape)));
  return found;
}

bool is_scale_float(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

DType find_scale_dtype(const StoredTensor& tensor, const EncodedData& data, const std::string& part) {
  if (data.scheme.scale != ScaleKind::floating) return scale_dtype_for(data.scheme, tensor.dtype);
  const auto it = data.parts.find(part);
  if (it == data.parts.end()) throw Error(ErrorKind::input, fmt::format("tensor {}: part {} is missing", tensor.name, part));
  const DType dtype = it->second.dtype;
  if (!is_scale_float(dtype)) throw Error(ErrorKind::input, fmt::format("tensor {}: part {}: expected F32, F16 or BF16, found {}", tensor.name, part, get_info(dtype).name));
  return dtype;
}

DType stored_scale_dtype(DType scale_dtype) { return scale_dtype == DType::f8_e8m0 ? DType::u8 : scale_dtype; }

std::vector<std::byte> encode_scales(const QuantizedMatrix& matrix) {
  std::vector<std::byte> bytes(matrix.scales.size() * get_info(matrix.scale_dtype).bytes);
  encode_floats(matrix.scale_dtype, matrix.scales, bytes);
  return bytes;
}

void decode_scales(const StoredTensor& tensor, const TensorView& part, QuantizedMatrix& matrix) {
  matrix.scales.resize(static_cast<size_t>(matrix.scale_count()));
  decode_floats(matrix.scale_dtype, part.bytes, matrix.scales);
  for (size_t i = 0; i < matrix.scales.size(); ++i)
    if (!std::isfinite(matrix.scales[i]))
      throw Error(ErrorKind::input, fmt::format("tensor {}: scale {} is {}", tensor.name, i, matrix.scales[i]));
}

std::vector<std::byte> encode_global_scale(const QuantizedMatrix& matrix) {
  const auto bytes = std::as_bytes(std::span(&matrix.global_scale, 1));
  return {bytes.begin(), bytes.end()};
}

void decode_global_scale(const StoredTensor& tensor, const TensorView& part, QuantizedMatrix& matrix) {
  std::memcpy(&matrix.global_scale, part.bytes.data(), sizeof(float));
  if (!std::isfinite(matrix.global_scale) || !(matrix.global_scale > 0))
    throw Error(ErrorKind::input, fmt::format("tensor {}: the scale of the tensor is {}; expected a positive finite one", tensor.name, matrix.global_scale));
}

void check_codes(const StoredTensor& tensor, const QuantizedMatrix& matrix) {
  const int lowest = matrix.scheme.lowest_code(), highest = matrix.scheme.highest_code();
  for (size_t i = 0; i < matrix.codes.size(); ++i)
    if (matrix.codes[i] < lowest || matrix.codes[i] > highest)
      throw Error(ErrorKind::input, fmt::format("tensor {}: the code at row {}, column {} is {}; {} has codes from {} to {}", tensor.name, static_cast<int64_t>(i) / matrix.cols, static_cast<int64_t>(i) % matrix.cols, matrix.codes[i], to_string(matrix.scheme), lowest, highest));
}

}  // namespace llmc
