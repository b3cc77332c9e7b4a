#include "formats/codecs/compressed_tensors_codecs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"
#include "formats/bit_stream.h"
#include "formats/codecs/compressed_tensors_float_codecs.h"

namespace llmc {
namespace {

const QuantizedMatrix& codes_of(const StoredTensor& tensor) { return std::get<QuantizedMatrix>(tensor.form); }
bool is_plain_quantized(const StoredTensor& tensor) {
  return std::holds_alternative<QuantizedMatrix>(tensor.form) && codes_of(tensor).scheme.grid == GridKind::integer && codes_of(tensor).outliers.empty() && !tensor.transposed && tensor.shape.size() == 2;
}
bool is_int8(const StoredTensor& tensor) { return is_plain_quantized(tensor) && codes_of(tensor).scheme.bits == 8; }
bool is_below_8_bits(const StoredTensor& tensor) { return is_plain_quantized(tensor) && codes_of(tensor).scheme.bits < 8; }

/// For any count.
int64_t words(int64_t count, int bits) { return count / 32 * bits + (count % 32 * bits + 31) / 32; }

/// Each row becomes a bit stream of whole 32-bit words (little endian).
std::vector<std::byte> pack_rows(std::span<const int8_t> codes, int64_t rows, int64_t cols, int bits) {
  const auto row_bytes = static_cast<size_t>(4 * words(cols, bits));
  std::vector<std::byte> out(static_cast<size_t>(rows) * row_bytes);
  parallel_pieces(rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) pack_codes(codes.subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)), bits, std::span(out).subspan(static_cast<size_t>(r) * row_bytes, row_bytes));
  });
  return out;
}

void unpack_rows(std::span<const std::byte> packed, int64_t rows, int64_t cols, int bits, std::span<int8_t> codes) {
  const auto row_bytes = static_cast<size_t>(4 * words(cols, bits));
  for (int64_t r = 0; r < rows; ++r)
    unpack_codes(packed.subspan(static_cast<size_t>(r) * row_bytes, row_bytes), bits, codes.subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)));
}

/// Rearranges [rows, cols] elements of `size` bytes to [cols, rows].
template <typename T>
std::vector<T> transposed(std::span<const T> in, int64_t rows, int64_t cols) {
  std::vector<T> out(in.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) out[static_cast<size_t>(c * rows + r)] = in[static_cast<size_t>(r * cols + c)];
  return out;
}

std::vector<std::byte> as_bytes(const auto& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

/// Scales of any of the three float types, checked against the scheme. The caller has looked at the codes' part: what is allocated is bounded by that and by the scales'.
QuantizedMatrix read_plain_scales(const StoredTensor& tensor, const EncodedData& data) {
  const DType dtype = find_scale_dtype(tensor, data, "weight_scale");
  const QuantizedMatrix sizes{.scheme = data.scheme, .rows = tensor.rows(), .cols = tensor.cols()};
  const TensorView& scales = get_part(tensor, data, "weight_scale", dtype, compressed_tensors_scale_shape(sizes));
  QuantizedMatrix matrix = make_quantized_matrix(data.scheme, dtype, tensor.rows(), tensor.cols(), tensor.name);
  decode_scales(tensor, scales, matrix);
  return matrix;
}

void read_plain_zero_points(const StoredTensor& tensor, const EncodedData& data, QuantizedMatrix& matrix) {
  const auto bytes = get_part(tensor, data, "weight_zero_point", DType::i8, compressed_tensors_scale_shape(matrix)).bytes;
  std::memcpy(matrix.zero_points.data(), bytes.data(), bytes.size());
  const Scheme& scheme = matrix.scheme;
  const auto outside = std::ranges::find_if(matrix.zero_points, [&](int8_t zero_point) { return zero_point < scheme.lowest_code() || zero_point > scheme.highest_code(); });
  if (outside == matrix.zero_points.end()) return;
  const int64_t at = outside - matrix.zero_points.begin();
  throw Error(ErrorKind::input, fmt::format("tensor {}: part weight_zero_point: row {}, column {} is {}; {} has codes from {} to {}", tensor.name, at / matrix.scale_cols(), at % matrix.scale_cols(), *outside, to_string(scheme), scheme.lowest_code(), scheme.highest_code()));
}

// int-quantized: "weight" int8 [rows, cols], "weight_scale", and for linear "weight_zero_point" int8 like the scales.

std::vector<TensorLayout> int_layout(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = codes_of(tensor);
  std::vector<TensorLayout> layout = {{"weight", DType::i8, tensor.shape}, {"weight_scale", matrix.scale_dtype, compressed_tensors_scale_shape(matrix)}};
  if (!matrix.zero_points.empty()) layout.push_back({"weight_zero_point", DType::i8, compressed_tensors_scale_shape(matrix)});
  return layout;
}

std::vector<EncodedPart> encode_int(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = codes_of(tensor);
  const std::vector<TensorLayout> layout = int_layout(tensor);
  std::vector<EncodedPart> parts = {{layout[0], {}, std::as_bytes(std::span(matrix.codes))}, {layout[1], encode_scales(matrix), {}}};
  if (layout.size() == 3) parts.push_back({layout[2], as_bytes(matrix.zero_points)});
  return parts;
}

std::variant<FloatData, QuantizedMatrix> decode_int(const StoredTensor& tensor, const EncodedData& data) {
  const auto codes = get_part(tensor, data, "weight", DType::i8, tensor.shape).bytes;
  QuantizedMatrix matrix = read_plain_scales(tensor, data);
  std::memcpy(matrix.codes.data(), codes.data(), codes.size());
  if (matrix.scheme.bits < 8) check_codes(tensor, matrix);  // other writers store fewer bits so, too
  if (!matrix.zero_points.empty()) read_plain_zero_points(tensor, data, matrix);
  return matrix;
}

// pack-quantized: "weight_packed" int32 [rows, words], "weight_scale", "weight_shape" int64 [2], and for linear
// "weight_zero_point": int32 [words over rows, groups] (packed along the rows), or int8 [1] when one scale serves the tensor.

bool packs_zero_points(const QuantizedMatrix& matrix) { return matrix.scheme.granularity != Granularity::tensor; }

std::vector<TensorLayout> pack_layout(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = codes_of(tensor);
  std::vector<TensorLayout> layout = {{"weight_packed", DType::i32, {matrix.rows, words(matrix.cols, matrix.scheme.bits)}},
                                      {"weight_scale", matrix.scale_dtype, compressed_tensors_scale_shape(matrix)},
                                      {"weight_shape", DType::i64, {2}}};
  if (matrix.zero_points.empty()) return layout;
  if (packs_zero_points(matrix))
    layout.push_back({"weight_zero_point", DType::i32, {words(matrix.scale_rows(), matrix.scheme.bits), matrix.scale_cols()}});
  else
    layout.push_back({"weight_zero_point", DType::i8, compressed_tensors_scale_shape(matrix)});
  return layout;
}

std::vector<EncodedPart> encode_pack(const StoredTensor& tensor) {
  const QuantizedMatrix& matrix = codes_of(tensor);
  const int bits = matrix.scheme.bits;
  const std::vector<TensorLayout> layout = pack_layout(tensor);
  std::vector<EncodedPart> parts = {{layout[0], pack_rows(matrix.codes, matrix.rows, matrix.cols, bits)},
                                    {layout[1], encode_scales(matrix)},
                                    {layout[2], as_bytes(tensor.shape)}};
  if (layout.size() < 4) return parts;
  if (!packs_zero_points(matrix)) {
    parts.push_back({layout[3], as_bytes(matrix.zero_points)});
    return parts;
  }
  const std::vector<int8_t> by_column = transposed<int8_t>(matrix.zero_points, matrix.scale_rows(), matrix.scale_cols());
  const std::vector<std::byte> packed = pack_rows(by_column, matrix.scale_cols(), matrix.scale_rows(), bits);
  std::vector<uint32_t> column_words(packed.size() / 4);
  std::memcpy(column_words.data(), packed.data(), packed.size());
  parts.push_back({layout[3], as_bytes(transposed<uint32_t>(column_words, matrix.scale_cols(), words(matrix.scale_rows(), bits)))});
  return parts;
}

std::variant<FloatData, QuantizedMatrix> decode_pack(const StoredTensor& tensor, const EncodedData& data) {
  const auto packed_codes = get_part(tensor, data, "weight_packed", DType::i32, {tensor.rows(), words(tensor.cols(), data.scheme.bits)}).bytes;
  QuantizedMatrix matrix = read_plain_scales(tensor, data);
  const int bits = matrix.scheme.bits;
  const auto shape_bytes = get_part(tensor, data, "weight_shape", DType::i64, {2}).bytes;
  Shape shape(2);
  std::memcpy(shape.data(), shape_bytes.data(), shape_bytes.size());
  if (shape != tensor.shape) throw Error(ErrorKind::input, fmt::format("tensor {}: weight_shape: expected {}, found {}", tensor.name, to_string(tensor.shape), to_string(shape)));
  unpack_rows(packed_codes, matrix.rows, matrix.cols, bits, matrix.codes);
  if (matrix.zero_points.empty()) return matrix;
  if (!packs_zero_points(matrix)) {
    read_plain_zero_points(tensor, data, matrix);
    return matrix;
  }
  const int64_t column_words = words(matrix.scale_rows(), bits);
  const auto packed = get_part(tensor, data, "weight_zero_point", DType::i32, {column_words, matrix.scale_cols()}).bytes;
  std::vector<uint32_t> by_row(packed.size() / 4);
  std::memcpy(by_row.data(), packed.data(), packed.size());
  const std::vector<uint32_t> by_column = transposed<uint32_t>(by_row, column_words, matrix.scale_cols());
  std::vector<int8_t> zero_points(matrix.zero_points.size());
  unpack_rows(std::as_bytes(std::span(by_column)), matrix.scale_cols(), matrix.scale_rows(), bits, zero_points);
  matrix.zero_points = transposed<int8_t>(zero_points, matrix.scale_cols(), matrix.scale_rows());
  return matrix;
}

constexpr const char* input_scale = "input_scale";
constexpr const char* input_zero_point = "input_zero_point";

constexpr std::array integer_rows = {
    Codec{.name = "int-quantized", .summary = "compressed-tensors, one int8 per weight", .holds_codes = true, .fits = is_int8, .layout = int_layout, .encode = encode_int, .decode = decode_int},
    Codec{.name = "pack-quantized", .summary = "compressed-tensors, codes below 8 bits in int32 words", .holds_codes = true, .fits = is_below_8_bits, .layout = pack_layout, .encode = encode_pack, .decode = decode_pack},
};

/// One list of integer and float codecs.
const std::vector<Codec>& rows() {
  static const std::vector<Codec> all = [] {
    std::vector<Codec> codecs(integer_rows.begin(), integer_rows.end());
    const auto floats = compressed_tensors_float_codecs();
    codecs.insert(codecs.end(), floats.begin(), floats.end());
    return codecs;
  }();
  return all;
}

}  // namespace

std::span<const Codec> compressed_tensors_codecs() { return rows(); }

const Codec* find_compressed_tensors_codec(std::string_view name) {
  for (const Codec& codec : rows())
    if (codec.name == name) return &codec;
  return nullptr;
}

const Codec* find_compressed_tensors_codec(const Scheme& scheme) {
  if (scheme.grid != GridKind::integer) return find_compressed_tensors_float_codec(scheme);
  return &integer_rows[scheme.bits == 8 ? 0 : 1];
}

std::vector<EncodedPart> encode_input_grid(const StoredTensor& tensor) {
  if (!tensor.input_grid) return {};
  const QuantizedMatrix& matrix = codes_of(tensor);
  std::vector<std::byte> scale(get_info(matrix.scale_dtype).bytes);
  encode_floats(matrix.scale_dtype, {&tensor.input_grid->scale, 1}, scale);
  std::vector<EncodedPart> parts = {{{input_scale, matrix.scale_dtype, {1}}, std::move(scale)}};
  if (matrix.scheme.input->mapping == Mapping::linear) parts.push_back({{input_zero_point, DType::i8, {1}}, {static_cast<std::byte>(tensor.input_grid->zero_point)}});
  return parts;
}

void check_parts(const StoredTensor& tensor, std::map<std::string, TensorView>& parts) {
  const EncodedData& data = std::get<EncodedData>(tensor.form);
  StoredTensor probe{.shape = {0, 0}, .form = QuantizedMatrix{.scheme = data.scheme}};
  if (data.scheme.mapping == Mapping::linear) std::get<QuantizedMatrix>(probe.form).zero_points = {0};
  const std::vector<TensorLayout> layout = data.codec->layout(probe);
  const auto is_zero = [](const TensorView& part) { return std::ranges::all_of(part.bytes, [](std::byte value) { return value == std::byte{0}; }); };
  if (const auto part = parts.find("weight_zero_point"); part != parts.end() && data.scheme.mapping == Mapping::symmetric && is_zero(part->second)) parts.erase(part);
  for (const auto& [name, part] : parts)
    if (name != "weight_shape" && std::ranges::find(layout, name, &TensorLayout::name) == layout.end())
      throw Error(ErrorKind::input, fmt::format("tensor {}: part {} is there, but {} in the format {} has none", tensor.name, name, to_string(data.scheme), data.codec->name));
}

void decode_input_grid(StoredTensor& tensor, std::map<std::string, TensorView>& parts) {
  EncodedData data{.codec = nullptr, .scheme = std::get<EncodedData>(tensor.form).scheme, .parts = {}};
  for (const char* part : {input_scale, input_zero_point})
    if (auto node = parts.extract(part)) data.parts.insert(std::move(node));
  const auto& scheme = data.scheme.input;
  const bool is_static = scheme && scheme->range == InputRange::calibrated;
  const bool has_zero_point = data.parts.contains(input_zero_point);
  if (!is_static) {
    if (!data.parts.empty()) throw Error(ErrorKind::input, fmt::format("tensor {}: part {} is there, but its scheme has no static input", tensor.name, data.parts.begin()->first));
    return;
  }
  const auto part = data.parts.find(input_scale);
  const DType dtype = part == data.parts.end() || !is_scale_float(part->second.dtype) ? DType::f32 : part->second.dtype;
  float scale = 0;
  decode_floats(dtype, get_part(tensor, data, input_scale, dtype, {1}).bytes, {&scale, 1});
  int zero_point = 0;
  if (scheme->mapping == Mapping::linear || has_zero_point) zero_point = static_cast<int8_t>(get_part(tensor, data, input_zero_point, DType::i8, {1}).bytes[0]);
  try {
    tensor.input_grid = make_stored_grid(*scheme, scale, zero_point);
  } catch (const Error& problem) {
    throw Error(ErrorKind::input, fmt::format("tensor {}: {}", tensor.name, problem.what()));
  }
}

}  // namespace llmc
