#include "formats/codecs/packed_codecs.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "formats/bit_stream.h"

namespace llmc {
namespace {

const FloatData* floats_of(const StoredTensor& tensor) { return std::get_if<FloatData>(&tensor.form); }
const QuantizedMatrix* codes_of(const StoredTensor& tensor) { return std::get_if<QuantizedMatrix>(&tensor.form); }
bool is_dense(const StoredTensor& tensor) { return floats_of(tensor) != nullptr; }
bool is_pruned_float(const StoredTensor& tensor) { return floats_of(tensor) && tensor.pruned; }
bool is_quantized(const StoredTensor& tensor) { return codes_of(tensor) != nullptr; }
bool is_pruned_quantized(const StoredTensor& tensor) { return codes_of(tensor) && tensor.pruned; }

// dense: the part "values" holds the floats as they are.

std::vector<TensorLayout> dense_layout(const StoredTensor& tensor) { return {{"values", tensor.dtype, tensor.shape}}; }

std::vector<EncodedPart> encode_dense(const StoredTensor& tensor) {
  const auto bytes = floats_of(tensor)->bytes();
  return {{dense_layout(tensor)[0], {bytes.begin(), bytes.end()}}};
}

std::variant<FloatData, QuantizedMatrix> decode_dense(const StoredTensor& tensor, const EncodedData& data) {
  return FloatData(get_part(tensor, data, "values", tensor.dtype, tensor.shape).bytes);
}

// Masks: bit i of the stream (least significant first) says whether element i is stored.

int64_t mask_bytes(int64_t count) { return (count + 7) / 8; }

std::vector<std::byte> make_mask(int64_t count, auto is_kept) {
  std::vector<std::byte> mask(static_cast<size_t>(mask_bytes(count)));
  for (int64_t i = 0; i < count; ++i)
    if (is_kept(i)) mask[static_cast<size_t>(i / 8)] |= std::byte{1} << (i % 8);
  return mask;
}

bool bit_at(std::span<const std::byte> mask, int64_t i) { return (mask[static_cast<size_t>(i / 8)] >> (i % 8) & std::byte{1}) != std::byte{0}; }

int64_t count_bits(std::span<const std::byte> mask) {
  int64_t count = 0;
  for (std::byte byte : mask) count += std::popcount(static_cast<uint8_t>(byte));
  return count;
}

/// The mask part, checked: right size, no bit past the end.
std::span<const std::byte> get_mask(const StoredTensor& tensor, const EncodedData& data) {
  const auto mask = get_part(tensor, data, "mask", DType::u8, {mask_bytes(tensor.count())}).bytes;
  for (int64_t i = tensor.count(); i < static_cast<int64_t>(mask.size()) * 8; ++i)
    if (bit_at(mask, i)) throw Error(ErrorKind::input, fmt::format("tensor {}: part mask: bit {} is set, but the tensor has {} elements", tensor.name, i, tensor.count()));
  return mask;
}

// bitmask: "mask", and "values": the floats whose bits are not all zero.

auto non_zero_floats(const StoredTensor& tensor) {
  return [bytes = floats_of(tensor)->bytes(), size = get_info(tensor.dtype).bytes](int64_t i) {
    for (size_t b = 0; b < size; ++b)
      if (bytes[static_cast<size_t>(i) * size + b] != std::byte{0}) return true;
    return false;
  };
}

std::vector<TensorLayout> bitmask_layout(const StoredTensor& tensor) {
  int64_t kept = 0;
  const auto is_kept = non_zero_floats(tensor);
  for (int64_t i = 0; i < tensor.count(); ++i) kept += is_kept(i);
  return {{"mask", DType::u8, {mask_bytes(tensor.count())}}, {"values", tensor.dtype, {kept}}};
}

std::vector<EncodedPart> encode_bitmask(const StoredTensor& tensor) {
  const size_t size = get_info(tensor.dtype).bytes;
  const auto is_kept = non_zero_floats(tensor);
  const auto bytes = floats_of(tensor)->bytes();
  std::vector<std::byte> mask = make_mask(tensor.count(), is_kept);
  std::vector<std::byte> values;
  values.reserve(static_cast<size_t>(count_bits(mask)) * size);
  for (int64_t i = 0; i < tensor.count(); ++i)
    if (bit_at(mask, i)) values.insert(values.end(), bytes.begin() + i * static_cast<int64_t>(size), bytes.begin() + (i + 1) * static_cast<int64_t>(size));
  const auto kept = static_cast<int64_t>(values.size() / size);
  return {{{"mask", DType::u8, {mask_bytes(tensor.count())}}, std::move(mask)}, {{"values", tensor.dtype, {kept}}, std::move(values)}};
}

std::variant<FloatData, QuantizedMatrix> decode_bitmask(const StoredTensor& tensor, const EncodedData& data) {
  const auto mask = get_mask(tensor, data);
  const auto values = get_part(tensor, data, "values", tensor.dtype, {count_bits(mask)}).bytes;
  const size_t size = get_info(tensor.dtype).bytes;
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.count()) * size);
  size_t next = 0;
  for (int64_t i = 0; i < tensor.count(); ++i)
    if (bit_at(mask, i)) std::memcpy(bytes.data() + static_cast<size_t>(i) * size, values.data() + size * next++, size);
  return FloatData(std::move(bytes));
}

// packed-int: "codes" (a bit stream over the logical matrix, row by row), "scales", and for linear schemes "zero_points"
// (a bit stream in the order of the scales).

void add_scale_layout(const QuantizedMatrix& matrix, std::vector<TensorLayout>& layout) {
  layout.push_back({"scales", matrix.scale_dtype, {matrix.scale_rows(), matrix.scale_cols()}});
  if (!matrix.zero_points.empty()) layout.push_back({"zero_points", DType::u8, {packed_bytes(matrix.scale_count(), matrix.scheme.bits)}});
}

void add_scale_parts(const QuantizedMatrix& matrix, std::vector<EncodedPart>& parts) {
  std::vector<TensorLayout> layout;
  add_scale_layout(matrix, layout);
  parts.push_back({layout[0], encode_scales(matrix)});
  if (matrix.zero_points.empty()) return;
  std::vector<std::byte> packed(static_cast<size_t>(layout[1].bytes()));
  pack_codes(matrix.zero_points, matrix.scheme.bits, packed);
  parts.push_back({layout[1], std::move(packed)});
}

/// A matrix with scales and zero points read, codes still empty.
QuantizedMatrix read_scales(const StoredTensor& tensor, const EncodedData& data) {
  const auto scales = data.parts.find("scales");
  const DType dtype = scales == data.parts.end() ? DType::f32 : scales->second.dtype;
  if (!is_weight_float(dtype)) throw Error(ErrorKind::input, fmt::format("tensor {}: part scales: expected F32, F16 or BF16, found {}", tensor.name, get_info(dtype).name));
  QuantizedMatrix matrix = make_quantized_matrix(data.scheme, dtype, tensor.rows(), tensor.cols(), tensor.name);
  decode_scales(tensor, get_part(tensor, data, "scales", dtype, {matrix.scale_rows(), matrix.scale_cols()}), matrix);
  if (data.scheme.mapping == Mapping::linear)
    unpack_codes(get_part(tensor, data, "zero_points", DType::u8, {packed_bytes(matrix.scale_count(), data.scheme.bits)}).bytes, data.scheme.bits, matrix.zero_points);
  return matrix;
}

std::vector<TensorLayout> packed_layout(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *codes_of(tensor);
  std::vector<TensorLayout> layout = {{"codes", DType::u8, {packed_bytes(tensor.count(), matrix.scheme.bits)}}};
  add_scale_layout(matrix, layout);
  return layout;
}

std::vector<EncodedPart> encode_packed(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *codes_of(tensor);
  std::vector<EncodedPart> parts = {{packed_layout(tensor)[0], {}}};
  parts[0].bytes.resize(static_cast<size_t>(parts[0].layout.bytes()));
  pack_codes(matrix.codes, matrix.scheme.bits, parts[0].bytes);
  add_scale_parts(matrix, parts);
  return parts;
}

std::variant<FloatData, QuantizedMatrix> decode_packed(const StoredTensor& tensor, const EncodedData& data) {
  QuantizedMatrix matrix = read_scales(tensor, data);
  unpack_codes(get_part(tensor, data, "codes", DType::u8, {packed_bytes(tensor.count(), data.scheme.bits)}).bytes, data.scheme.bits, matrix.codes);
  return matrix;
}

// bitmask+packed-int: "mask" over the logical matrix, "codes" of the elements that are not the code of zero, scales as above.

auto non_zero_codes(const QuantizedMatrix& matrix) {
  return [&matrix](int64_t i) {
    const int64_t row = i / matrix.cols;
    return matrix.codes[static_cast<size_t>(i)] != matrix.zero_code(matrix.scale_index(row, i - row * matrix.cols));
  };
}

std::vector<TensorLayout> masked_codes_layout(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *codes_of(tensor);
  int64_t kept = 0;
  const auto is_kept = non_zero_codes(matrix);
  for (int64_t i = 0; i < tensor.count(); ++i) kept += is_kept(i);
  std::vector<TensorLayout> layout = {{"mask", DType::u8, {mask_bytes(tensor.count())}}, {"codes", DType::u8, {packed_bytes(kept, matrix.scheme.bits)}}};
  add_scale_layout(matrix, layout);
  return layout;
}

std::vector<EncodedPart> encode_masked_codes(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *codes_of(tensor);
  std::vector<std::byte> mask = make_mask(tensor.count(), non_zero_codes(matrix));
  std::vector<int8_t> kept;
  for (int64_t i = 0; i < tensor.count(); ++i)
    if (bit_at(mask, i)) kept.push_back(matrix.codes[static_cast<size_t>(i)]);
  std::vector<std::byte> packed(static_cast<size_t>(packed_bytes(static_cast<int64_t>(kept.size()), matrix.scheme.bits)));
  pack_codes(kept, matrix.scheme.bits, packed);
  std::vector<EncodedPart> parts;
  parts.push_back({{"mask", DType::u8, {mask_bytes(tensor.count())}}, std::move(mask)});
  parts.push_back({{"codes", DType::u8, {static_cast<int64_t>(packed.size())}}, std::move(packed)});
  add_scale_parts(matrix, parts);
  return parts;
}

std::variant<FloatData, QuantizedMatrix> decode_masked_codes(const StoredTensor& tensor, const EncodedData& data) {
  QuantizedMatrix matrix = read_scales(tensor, data);
  const auto mask = get_mask(tensor, data);
  std::vector<int8_t> kept(static_cast<size_t>(count_bits(mask)));
  unpack_codes(get_part(tensor, data, "codes", DType::u8, {packed_bytes(static_cast<int64_t>(kept.size()), data.scheme.bits)}).bytes, data.scheme.bits, kept);
  size_t next = 0;
  for (int64_t row = 0; row < matrix.rows; ++row)
    for (int64_t col = 0; col < matrix.cols; ++col) {
      const int64_t i = row * matrix.cols + col;
      matrix.codes[static_cast<size_t>(i)] = bit_at(mask, i) ? kept[next++] : static_cast<int8_t>(matrix.zero_code(matrix.scale_index(row, col)));
    }
  return matrix;
}

constexpr std::array rows = {
    Codec{.name = "dense", .summary = "floats as they are", .fits = is_dense, .layout = dense_layout, .encode = encode_dense, .decode = decode_dense},
    Codec{.name = "bitmask", .summary = "a bit per weight, and the floats that are not zero", .fits = is_pruned_float, .layout = bitmask_layout, .encode = encode_bitmask, .decode = decode_bitmask},
    Codec{.name = "packed-int", .summary = "codes of 2 to 8 bits without gaps, with scales", .holds_codes = true, .fits = is_quantized, .layout = packed_layout, .encode = encode_packed, .decode = decode_packed},
    Codec{.name = "bitmask+packed-int", .summary = "a bit per weight, and the codes that are not zero, with scales", .holds_codes = true, .fits = is_pruned_quantized, .layout = masked_codes_layout, .encode = encode_masked_codes, .decode = decode_masked_codes},
};

}  // namespace

std::span<const Codec> packed_codecs() { return rows; }

const Codec* find_packed_codec(std::string_view name) {
  for (const Codec& codec : rows)
    if (codec.name == name) return &codec;
  return nullptr;
}

const Codec& choose_packed_codec(const StoredTensor& tensor) {
  const Codec* best = nullptr;
  uint64_t best_bytes = 0;
  for (const Codec& codec : rows) {
    if (!codec.fits(tensor)) continue;
    const uint64_t bytes = stored_bytes(codec.layout(tensor));
    if (!best || bytes < best_bytes) best = &codec, best_bytes = bytes;
  }
  if (!best) throw Error(ErrorKind::bug, fmt::format("tensor {}: no codec fits", tensor.name));
  return *best;
}

}  // namespace llmc
