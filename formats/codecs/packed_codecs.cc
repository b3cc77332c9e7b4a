#include "formats/codecs/packed_codecs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"
#include "formats/bit_stream.h"
#include "formats/codecs/code_parts.h"
#include "formats/codecs/gguf_codecs.h"
#include "formats/codecs/positions.h"
#include "formats/codecs/sparse_codecs.h"

namespace llmc {
namespace {

bool is_dense(const StoredTensor& tensor) { return find_floats(tensor) != nullptr; }
bool is_pruned_float(const StoredTensor& tensor) { return find_floats(tensor) && tensor.pruned; }
bool is_quantized(const StoredTensor& tensor) { return find_codes(tensor) && find_codes(tensor)->outliers.empty(); }
bool is_pruned_quantized(const StoredTensor& tensor) { return is_quantized(tensor) && tensor.pruned && find_codes(tensor)->has_zero(); }
bool has_outliers(const StoredTensor& tensor) { return find_codes(tensor) && !find_codes(tensor)->outliers.empty(); }
bool has_outliers_and_zeros(const StoredTensor& tensor) { return has_outliers(tensor) && tensor.pruned && find_codes(tensor)->has_zero(); }

// dense: the part "values" holds the floats as they are.

std::vector<TensorLayout> dense_layout(const StoredTensor& tensor) { return {{"values", tensor.dtype, tensor.shape}}; }

std::vector<EncodedPart> encode_dense(const StoredTensor& tensor) { return {{dense_layout(tensor)[0], {}, find_floats(tensor)->bytes()}}; }

std::variant<FloatData, QuantizedMatrix> decode_dense(const StoredTensor& tensor, const EncodedData& data) {
  return FloatData(get_part(tensor, data, "values", tensor.dtype, tensor.shape).bytes);
}

// Masks: bit i of the stream (least significant first) says whether element i is stored.

int64_t mask_bytes(int64_t count) { return stream_bytes(count, 1); }

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

std::vector<uint8_t> marks_of(const StoredTensor& tensor) { return mark_nonzero(find_floats(tensor)->bytes(), get_info(tensor.dtype).bytes); }

std::vector<TensorLayout> bitmask_layout(const StoredTensor& tensor) {
  return {{"mask", DType::u8, {mask_bytes(tensor.count())}}, {"values", tensor.dtype, {std::ranges::count(marks_of(tensor), uint8_t{1})}}};
}

std::vector<EncodedPart> encode_masked_floats(const StoredTensor& tensor) {
  const size_t size = get_info(tensor.dtype).bytes;
  const std::vector<uint8_t> marks = marks_of(tensor);
  const auto bytes = find_floats(tensor)->bytes();
  const int64_t count = std::ssize(marks);
  std::vector<std::byte> mask = pack_marks(marks);
  std::vector<std::byte> values;
  values.reserve(static_cast<size_t>(count_bits(mask)) * size);
  for (int64_t i = 0; i < count; ++i)
    if (marks[static_cast<size_t>(i)]) values.insert(values.end(), bytes.begin() + i * static_cast<int64_t>(size), bytes.begin() + (i + 1) * static_cast<int64_t>(size));
  const auto kept = static_cast<int64_t>(values.size() / size);
  return {{{"mask", DType::u8, {mask_bytes(count)}}, std::move(mask)}, {{"values", tensor.dtype, {kept}}, std::move(values)}};
}

std::variant<FloatData, QuantizedMatrix> decode_masked_floats(const StoredTensor& tensor, const EncodedData& data) {
  const auto mask = get_mask(tensor, data);
  const auto values = get_part(tensor, data, "values", tensor.dtype, {count_bits(mask)}).bytes;
  const size_t size = get_info(tensor.dtype).bytes;
  const int64_t count = tensor.count();
  std::vector<std::byte> bytes(static_cast<size_t>(count) * size);
  size_t next = 0;
  for (int64_t i = 0; i < count; ++i)
    if (bit_at(mask, i)) std::memcpy(bytes.data() + static_cast<size_t>(i) * size, values.data() + size * next++, size);
  return FloatData(std::move(bytes));
}

// packed-int: "codes" (a bit stream over the logical matrix, row by row), and what they mean (formats/codecs/code_parts.h).

std::vector<TensorLayout> packed_layout(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *find_codes(tensor);
  std::vector<TensorLayout> layout = {{"codes", DType::u8, {packed_bytes(tensor.count(), matrix.scheme.bits)}}};
  add_scale_layout(matrix, layout);
  return layout;
}

std::vector<EncodedPart> encode_packed(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *find_codes(tensor);
  std::vector<EncodedPart> parts = {{packed_layout(tensor)[0], {}}};
  parts[0].own.resize(static_cast<size_t>(parts[0].layout.bytes()));
  const int bits = matrix.scheme.bits;
  parallel_pieces(static_cast<int64_t>(matrix.codes.size()), 1 << 16, [&](int64_t first, int64_t last) {  // pieces start at whole bytes
    const auto begin = static_cast<size_t>(packed_bytes(first, bits)), end = static_cast<size_t>(packed_bytes(last, bits));
    pack_codes(std::span(matrix.codes).subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)), bits, std::span(parts[0].own).subspan(begin, end - begin));
  });
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

std::vector<TensorLayout> masked_codes_layout(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *find_codes(tensor);
  const int64_t kept = std::ranges::count(mark_nonzero_codes(matrix), uint8_t{1});
  std::vector<TensorLayout> layout = {{"mask", DType::u8, {mask_bytes(tensor.count())}}, {"codes", DType::u8, {packed_bytes(kept, matrix.scheme.bits)}}};
  add_scale_layout(matrix, layout);
  return layout;
}

std::vector<EncodedPart> encode_masked_codes(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = *find_codes(tensor);
  const std::vector<uint8_t> marks = mark_nonzero_codes(matrix);
  std::vector<std::byte> mask = pack_marks(marks);
  std::vector<int8_t> kept;
  for (size_t i = 0; i < marks.size(); ++i)
    if (marks[i]) kept.push_back(matrix.codes[i]);
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

// …+outliers: the same, with the parts of the outliers.

template <auto base>
std::vector<TensorLayout> outlier_layout(const StoredTensor& tensor) {
  std::vector<TensorLayout> layout = base(tensor);
  add_outlier_layout(find_codes(tensor)->outliers, layout);
  return layout;
}

template <auto base>
std::vector<EncodedPart> encode_outliers(const StoredTensor& tensor) {
  std::vector<EncodedPart> parts = base(tensor);
  add_outlier_parts(find_codes(tensor)->outliers, parts);
  return parts;
}

template <auto base>
std::variant<FloatData, QuantizedMatrix> decode_outliers(const StoredTensor& tensor, const EncodedData& data) {
  QuantizedMatrix matrix = std::get<QuantizedMatrix>(base(tensor, data));
  matrix.outliers = read_outliers(tensor, data);
  return matrix;
}

constexpr std::array own_rows = {
    Codec{.name = "dense", .summary = "floats as they are", .fits = is_dense, .layout = dense_layout, .encode = encode_dense, .decode = decode_dense},
    Codec{.name = "bitmask", .summary = "a bit per weight, and the floats that are not zero", .fits = is_pruned_float, .layout = bitmask_layout, .encode = encode_masked_floats, .decode = decode_masked_floats},
    Codec{.name = "packed-int", .summary = "codes of 1 to 8 bits without gaps, with scales or centroids", .holds_codes = true, .fits = is_quantized, .layout = packed_layout, .encode = encode_packed, .decode = decode_packed},
    Codec{.name = "bitmask+packed-int", .summary = "a bit per weight, and the codes that are not zero, with scales or centroids", .holds_codes = true, .fits = is_pruned_quantized, .layout = masked_codes_layout, .encode = encode_masked_codes, .decode = decode_masked_codes},
    Codec{.name = "packed-int+outliers", .summary = "packed-int, and a few weights in 16 bits", .holds_codes = true, .fits = has_outliers, .layout = outlier_layout<packed_layout>, .encode = encode_outliers<encode_packed>, .decode = decode_outliers<decode_packed>},
    Codec{.name = "bitmask+packed-int+outliers", .summary = "bitmask+packed-int, and a few weights in 16 bits", .holds_codes = true, .fits = has_outliers_and_zeros, .layout = outlier_layout<masked_codes_layout>, .encode = encode_outliers<encode_masked_codes>, .decode = decode_outliers<decode_masked_codes>},
};

}  // namespace

std::span<const Codec> packed_codecs() {
  static const std::vector<Codec> list = [] {
    std::vector<Codec> all(own_rows.begin(), own_rows.end());
    all.insert(all.end(), sparse_codecs().begin(), sparse_codecs().end());
    return all;
  }();
  return list;
}

const Codec* find_packed_codec(std::string_view name) {
  for (const Codec& codec : packed_codecs())
    if (codec.name == name) return &codec;
  for (const Codec& codec : gguf_codecs())
    if (codec.name == name) return &codec;
  return nullptr;
}

std::vector<CodecSize> weigh_packed_codecs(const StoredTensor& tensor) {
  std::vector<CodecSize> sizes;
  for (const Codec& codec : packed_codecs())
    if (codec.fits(tensor)) sizes.push_back({&codec, codec.layout(tensor)});
  if (sizes.empty()) throw Error(ErrorKind::bug, fmt::format("tensor {}: no codec fits", tensor.name));
  return sizes;
}

const CodecSize& choose_smallest(const std::vector<CodecSize>& sizes) {
  return *std::ranges::min_element(sizes, {}, [](const CodecSize& size) { return size.bytes(); });
}

const Codec& choose_packed_codec(const StoredTensor& tensor) { return *choose_smallest(weigh_packed_codecs(tensor)).codec; }

}  // namespace llmc
