#include "formats/codecs/packed_codecs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "formats/bit_stream.h"
#include "formats/gap_stream.h"

namespace llmc {
namespace {

const FloatData* floats_of(const StoredTensor& tensor) { return std::get_if<FloatData>(&tensor.form); }
const QuantizedMatrix* codes_of(const StoredTensor& tensor) { return std::get_if<QuantizedMatrix>(&tensor.form); }
bool is_dense(const StoredTensor& tensor) { return floats_of(tensor) != nullptr; }
bool is_pruned_float(const StoredTensor& tensor) { return floats_of(tensor) && tensor.pruned; }
bool is_quantized(const StoredTensor& tensor) { return codes_of(tensor) && codes_of(tensor)->outliers.empty(); }
bool is_pruned_quantized(const StoredTensor& tensor) { return is_quantized(tensor) && tensor.pruned && codes_of(tensor)->has_zero(); }
bool has_outliers(const StoredTensor& tensor) { return codes_of(tensor) && !codes_of(tensor)->outliers.empty(); }
bool has_outliers_and_zeros(const StoredTensor& tensor) { return has_outliers(tensor) && tensor.pruned && codes_of(tensor)->has_zero(); }

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

// packed-int: "codes" (a bit stream over the logical matrix, row by row), and what they mean: "scales", for linear schemes
// "zero_points" (a bit stream in the order of the scales), "global_scale" where the scheme has one; or "centroids".

bool has_global_scale(const Scheme& scheme) { return scheme.scale == ScaleKind::e4m3; }

Shape centroid_shape(const QuantizedMatrix& matrix) { return {matrix.scale_count(), matrix.scheme.centroids}; }

void add_scale_layout(const QuantizedMatrix& matrix, std::vector<TensorLayout>& layout) {
  if (matrix.scheme.grid == GridKind::codebook) {
    layout.push_back({"centroids", matrix.scale_dtype, centroid_shape(matrix)});
    return;
  }
  layout.push_back({"scales", stored_scale_dtype(matrix.scale_dtype), {matrix.scale_rows(), matrix.scale_cols()}});
  if (!matrix.zero_points.empty()) layout.push_back({"zero_points", DType::u8, {packed_bytes(matrix.scale_count(), matrix.scheme.bits)}});
  if (has_global_scale(matrix.scheme)) layout.push_back({"global_scale", DType::f32, {1}});
}

void add_scale_parts(const QuantizedMatrix& matrix, std::vector<EncodedPart>& parts) {
  std::vector<TensorLayout> layout;
  add_scale_layout(matrix, layout);
  for (TensorLayout& part : layout) {
    std::vector<std::byte> bytes(static_cast<size_t>(part.bytes()));
    if (part.name == "centroids") encode_floats(matrix.scale_dtype, matrix.centroids, bytes);
    else if (part.name == "scales") bytes = encode_scales(matrix);
    else if (part.name == "global_scale") bytes = encode_global_scale(matrix);
    else pack_codes(matrix.zero_points, matrix.scheme.bits, bytes);
    parts.push_back({std::move(part), std::move(bytes)});
  }
}

void read_centroids(const StoredTensor& tensor, const TensorView& part, QuantizedMatrix& matrix) {
  decode_floats(matrix.scale_dtype, part.bytes, matrix.centroids);
  for (int64_t i = 0; i < matrix.scale_count(); ++i) {
    const auto levels = matrix.levels(i);
    if (!std::ranges::all_of(levels, [](float x) { return std::isfinite(x); }) || !std::ranges::is_sorted(levels))
      throw Error(ErrorKind::input, fmt::format("tensor {}: part centroids: row {}: expected finite centroids in ascending order", tensor.name, i));
  }
}

/// A matrix with scales and zero points, or centroids, read; codes still empty.
QuantizedMatrix read_scales(const StoredTensor& tensor, const EncodedData& data) {
  const bool is_codebook = data.scheme.grid == GridKind::codebook;
  const DType dtype = find_scale_dtype(tensor, data, is_codebook ? "centroids" : "scales");
  const QuantizedMatrix sizes{.scheme = data.scheme, .rows = tensor.rows(), .cols = tensor.cols()};
  const TensorView& part = is_codebook ? get_part(tensor, data, "centroids", dtype, centroid_shape(sizes)) : get_part(tensor, data, "scales", stored_scale_dtype(dtype), {sizes.scale_rows(), sizes.scale_cols()});
  QuantizedMatrix matrix = make_quantized_matrix(data.scheme, dtype, tensor.rows(), tensor.cols(), tensor.name);
  if (is_codebook) {
    read_centroids(tensor, part, matrix);
    return matrix;
  }
  decode_scales(tensor, part, matrix);
  if (data.scheme.mapping == Mapping::linear)
    unpack_codes(get_part(tensor, data, "zero_points", DType::u8, {packed_bytes(matrix.scale_count(), data.scheme.bits)}).bytes, data.scheme.bits, matrix.zero_points);
  if (has_global_scale(data.scheme)) decode_global_scale(tensor, get_part(tensor, data, "global_scale", DType::f32, {1}), matrix);
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
  const auto codes = get_part(tensor, data, "codes", DType::u8, {packed_bytes(tensor.count(), data.scheme.bits)}).bytes;  // first: bounds what is allocated
  QuantizedMatrix matrix = read_scales(tensor, data);
  unpack_codes(codes, data.scheme.bits, matrix.codes);
  check_codes(tensor, matrix);
  return matrix;
}

// bitmask+packed-int: "mask" over the logical matrix, "codes" of the elements that are not the code of zero, scales as above.

/// The code that means 0 in each span.
std::vector<int8_t> zero_codes(const QuantizedMatrix& matrix) {
  std::vector<int8_t> zeros(static_cast<size_t>(matrix.scale_count()));
  for (size_t i = 0; i < zeros.size(); ++i) zeros[i] = static_cast<int8_t>(matrix.zero_code(static_cast<int64_t>(i)));
  return zeros;
}

auto non_zero_codes(const QuantizedMatrix& matrix) {
  return [&matrix, zeros = zero_codes(matrix)](int64_t i) {
    const int64_t row = i / matrix.cols;
    return matrix.codes[static_cast<size_t>(i)] != zeros[static_cast<size_t>(matrix.scale_index(row, i - row * matrix.cols))];
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
  const auto mask = get_mask(tensor, data);  // first: bounds what is allocated
  QuantizedMatrix matrix = read_scales(tensor, data);
  std::vector<int8_t> kept(static_cast<size_t>(count_bits(mask)));
  unpack_codes(get_part(tensor, data, "codes", DType::u8, {packed_bytes(static_cast<int64_t>(kept.size()), data.scheme.bits)}).bytes, data.scheme.bits, kept);
  if (!matrix.has_zero()) throw Error(ErrorKind::input, fmt::format("tensor {}: part centroids: a row has no 0, which the mask needs", tensor.name));
  const std::vector<int8_t> zeros = zero_codes(matrix);
  size_t next = 0;
  for (int64_t row = 0; row < matrix.rows; ++row)
    for (int64_t col = 0; col < matrix.cols; ++col) {
      const int64_t i = row * matrix.cols + col;
      matrix.codes[static_cast<size_t>(i)] = bit_at(mask, i) ? kept[next++] : zeros[static_cast<size_t>(matrix.scale_index(row, col))];
    }
  check_codes(tensor, matrix);
  return matrix;
}

// …+outliers: the same, with "outlier_gaps" (formats/gap_stream.h) and "outlier_values".

void add_outlier_layout(const StoredTensor& tensor, std::vector<TensorLayout>& layout) {
  const Outliers& outliers = codes_of(tensor)->outliers;
  layout.push_back({"outlier_gaps", DType::u8, {gap_bytes(outliers.positions)}});
  layout.push_back({"outlier_values", outliers.dtype, {static_cast<int64_t>(outliers.values.size())}});
}

template <auto base>
std::vector<TensorLayout> outlier_layout(const StoredTensor& tensor) {
  std::vector<TensorLayout> layout = base(tensor);
  add_outlier_layout(tensor, layout);
  return layout;
}

template <auto base>
std::vector<EncodedPart> encode_outliers(const StoredTensor& tensor) {
  const Outliers& outliers = codes_of(tensor)->outliers;
  std::vector<EncodedPart> parts = base(tensor);
  std::vector<TensorLayout> layout;
  add_outlier_layout(tensor, layout);
  std::vector<std::byte> values(static_cast<size_t>(layout[1].bytes()));
  encode_floats(outliers.dtype, outliers.values, values);
  parts.push_back({layout[0], encode_gaps(outliers.positions)});
  parts.push_back({layout[1], std::move(values)});
  return parts;
}

template <auto base>
std::variant<FloatData, QuantizedMatrix> decode_outliers(const StoredTensor& tensor, const EncodedData& data) {
  if (data.scheme.input) throw Error(ErrorKind::input, fmt::format("tensor {}: {} rounds its input, and outliers are not part of its integer products", tensor.name, to_string(data.scheme)));
  QuantizedMatrix matrix = std::get<QuantizedMatrix>(base(tensor, data));
  const auto values = data.parts.find("outlier_values"), gaps = data.parts.find("outlier_gaps");
  if (values == data.parts.end() || gaps == data.parts.end()) throw Error(ErrorKind::input, fmt::format("tensor {}: part {} is missing", tensor.name, values == data.parts.end() ? "outlier_values" : "outlier_gaps"));
  const TensorView& view = values->second;
  if ((view.dtype != DType::f16 && view.dtype != DType::bf16) || view.shape.size() != 1 || view.shape[0] < 1)
    throw Error(ErrorKind::input, fmt::format("tensor {}: part outlier_values: expected a list in F16 or BF16, found {} {}", tensor.name, get_info(view.dtype).name, to_string(view.shape)));
  matrix.outliers.dtype = view.dtype;
  matrix.outliers.values.resize(static_cast<size_t>(view.shape[0]));
  decode_floats(view.dtype, view.bytes, matrix.outliers.values);
  for (float x : matrix.outliers.values)
    if (!std::isfinite(x)) throw Error(ErrorKind::input, fmt::format("tensor {}: part outlier_values: holds {}", tensor.name, x));
  auto positions = gaps->second.dtype == DType::u8 ? decode_gaps(gaps->second.bytes, view.shape[0], tensor.count()) : std::nullopt;
  if (!positions) throw Error(ErrorKind::input, fmt::format("tensor {}: part outlier_gaps: does not say {} positions below {}", tensor.name, view.shape[0], tensor.count()));
  matrix.outliers.positions = std::move(*positions);
  return matrix;
}

constexpr std::array rows = {
    Codec{.name = "dense", .summary = "floats as they are", .fits = is_dense, .layout = dense_layout, .encode = encode_dense, .decode = decode_dense},
    Codec{.name = "bitmask", .summary = "a bit per weight, and the floats that are not zero", .fits = is_pruned_float, .layout = bitmask_layout, .encode = encode_bitmask, .decode = decode_bitmask},
    Codec{.name = "packed-int", .summary = "codes of 1 to 8 bits without gaps, with scales or centroids", .holds_codes = true, .fits = is_quantized, .layout = packed_layout, .encode = encode_packed, .decode = decode_packed},
    Codec{.name = "bitmask+packed-int", .summary = "a bit per weight, and the codes that are not zero, with scales or centroids", .holds_codes = true, .fits = is_pruned_quantized, .layout = masked_codes_layout, .encode = encode_masked_codes, .decode = decode_masked_codes},
    Codec{.name = "packed-int+outliers", .summary = "packed-int, and a few weights in 16 bits", .holds_codes = true, .fits = has_outliers, .layout = outlier_layout<packed_layout>, .encode = encode_outliers<encode_packed>, .decode = decode_outliers<decode_packed>},
    Codec{.name = "bitmask+packed-int+outliers", .summary = "bitmask+packed-int, and a few weights in 16 bits", .holds_codes = true, .fits = has_outliers_and_zeros, .layout = outlier_layout<masked_codes_layout>, .encode = encode_outliers<encode_masked_codes>, .decode = decode_outliers<decode_masked_codes>},
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
