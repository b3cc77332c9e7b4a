#include "formats/codec.h"

#include <fmt/format.h>

#include <cmath>

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

std::vector<std::byte> encode_scales(const QuantizedMatrix& matrix) {
  std::vector<std::byte> bytes(matrix.scales.size() * get_info(matrix.scale_dtype).bytes);
  encode_floats(matrix.scale_dtype, matrix.scales, bytes);
  return bytes;
}

void decode_scales(const StoredTensor& tensor, const TensorView& part, QuantizedMatrix& matrix) {
  matrix.scale_dtype = part.dtype;
  matrix.scales.resize(static_cast<size_t>(matrix.scale_count()));
  decode_floats(part.dtype, part.bytes, matrix.scales);
  for (size_t i = 0; i < matrix.scales.size(); ++i)
    if (!std::isfinite(matrix.scales[i]))
      throw Error(ErrorKind::input, fmt::format("tensor {}: scale {} is {}", tensor.name, i, matrix.scales[i]));
}

}  // namespace llmc
