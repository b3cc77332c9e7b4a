#include "formats/codecs/code_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "formats/bit_stream.h"
#include "formats/gap_stream.h"

namespace llmc {
namespace {

Shape centroid_shape(const QuantizedMatrix& matrix) { return {matrix.scale_count(), matrix.scheme.centroids}; }

void read_centroids(const StoredTensor& tensor, const TensorView& part, QuantizedMatrix& matrix) {
  decode_floats(matrix.scale_dtype, part.bytes, matrix.centroids);
  for (int64_t i = 0; i < matrix.scale_count(); ++i) {
    const auto levels = matrix.levels(i);
    if (!std::ranges::all_of(levels, [](float x) { return std::isfinite(x); }) || !std::ranges::is_sorted(levels))
      throw Error(ErrorKind::input, fmt::format("tensor {}: part centroids: row {}: expected finite centroids in ascending order", tensor.name, i));
  }
}

/// Bits of each scale as they are stored.
std::vector<uint32_t> scale_patterns(std::span<const std::byte> bytes, size_t size) {
  std::vector<uint32_t> patterns(bytes.size() / size);
  for (size_t i = 0; i < patterns.size(); ++i) std::memcpy(&patterns[i], bytes.data() + i * size, size);
  return patterns;
}

/// The bytes that "scales" would have.
std::vector<std::byte> read_short_scales(const StoredTensor& tensor, const EncodedData& data, const QuantizedMatrix& matrix) {
  const size_t size = get_info(matrix.scale_dtype).bytes;
  const uint64_t base = scale_patterns(get_part(tensor, data, "scale_base", matrix.scale_dtype, {1}).bytes, size)[0];
  const auto steps = data.parts.find("scale_steps");
  const int width = steps->second.bytes.empty() ? 255 : static_cast<int>(steps->second.bytes[0]);
  if (width > static_cast<int>(8 * size)) throw Error(ErrorKind::input, fmt::format("tensor {}: part scale_steps: expected a width of at most {} bits, found {}", tensor.name, 8 * size, width));
  BitReader reader(get_part(tensor, data, "scale_steps", DType::u8, {1 + stream_bytes(matrix.scale_count(), width)}).bytes.subspan(1));
  std::vector<std::byte> bytes(static_cast<size_t>(matrix.scale_count()) * size);
  for (size_t i = 0; i * size < bytes.size(); ++i) {
    const uint64_t pattern = base + reader.take(width);
    if (pattern >> (8 * size) != 0) throw Error(ErrorKind::input, fmt::format("tensor {}: part scale_steps: scale {} is beyond {}", tensor.name, i, get_info(matrix.scale_dtype).name));
    std::memcpy(bytes.data() + i * size, &pattern, size);
  }
  return bytes;
}

}  // namespace

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

void add_short_scale_parts(const QuantizedMatrix& matrix, std::vector<EncodedPart>& parts) {
  const size_t first = parts.size();
  add_scale_parts(matrix, parts);
  if (matrix.scheme.scale != ScaleKind::floating || matrix.scales.empty()) return;
  const auto scales = std::ranges::find(parts.begin() + static_cast<std::ptrdiff_t>(first), parts.end(), "scales", [](const EncodedPart& part) { return std::string_view(part.layout.name); });
  const size_t size = get_info(matrix.scale_dtype).bytes;
  const std::vector<uint32_t> patterns = scale_patterns(scales->own, size);
  const auto [low, high] = std::ranges::minmax(patterns);
  const int width = static_cast<int>(std::bit_width(high - low));
  const int64_t steps_bytes = 1 + stream_bytes(matrix.scale_count(), width);
  if (static_cast<uint64_t>(steps_bytes) + size >= scales->own.size()) return;
  BitWriter writer;
  writer.put(static_cast<uint64_t>(width), 8);
  for (uint32_t pattern : patterns) writer.put(pattern - low, width);
  std::vector<std::byte> base(size);
  std::memcpy(base.data(), &low, size);
  *scales = {{"scale_base", matrix.scale_dtype, {1}}, std::move(base)};
  parts.push_back({{"scale_steps", DType::u8, {steps_bytes}}, std::move(writer).finish()});
}

QuantizedMatrix read_scales(const StoredTensor& tensor, const EncodedData& data) {
  const bool is_codebook = data.scheme.grid == GridKind::codebook;
  const bool is_short = data.scheme.scale == ScaleKind::floating && !is_codebook && data.parts.contains("scale_steps");
  const DType dtype = find_scale_dtype(tensor, data, is_codebook ? "centroids" : is_short ? "scale_base" : "scales");
  const QuantizedMatrix sizes{.scheme = data.scheme, .rows = tensor.rows(), .cols = tensor.cols()};
  const TensorView* part = nullptr;  // looked at first: bounds what is allocated
  if (is_codebook) part = &get_part(tensor, data, "centroids", dtype, centroid_shape(sizes));
  else if (!is_short) part = &get_part(tensor, data, "scales", stored_scale_dtype(dtype), {sizes.scale_rows(), sizes.scale_cols()});
  QuantizedMatrix matrix = make_quantized_matrix(data.scheme, dtype, tensor.rows(), tensor.cols(), tensor.name);
  if (is_codebook) {
    read_centroids(tensor, *part, matrix);
    return matrix;
  }
  if (is_short) {
    const std::vector<std::byte> bytes = read_short_scales(tensor, data, matrix);
    decode_scales(tensor, {.dtype = dtype, .shape = {matrix.scale_count()}, .bytes = bytes}, matrix);
  } else {
    decode_scales(tensor, *part, matrix);
  }
  if (data.scheme.mapping == Mapping::linear)
    unpack_codes(get_part(tensor, data, "zero_points", DType::u8, {packed_bytes(matrix.scale_count(), data.scheme.bits)}).bytes, data.scheme.bits, matrix.zero_points);
  if (has_global_scale(data.scheme)) decode_global_scale(tensor, get_part(tensor, data, "global_scale", DType::f32, {1}), matrix);
  return matrix;
}

void add_outlier_layout(const Outliers& outliers, std::vector<TensorLayout>& layout) {
  layout.push_back({"outlier_gaps", DType::u8, {gap_bytes(outliers.positions)}});
  layout.push_back({"outlier_values", outliers.dtype, {static_cast<int64_t>(outliers.values.size())}});
}

void add_outlier_parts(const Outliers& outliers, std::vector<EncodedPart>& parts) {
  std::vector<TensorLayout> layout;
  add_outlier_layout(outliers, layout);
  std::vector<std::byte> values(static_cast<size_t>(layout[1].bytes()));
  encode_floats(outliers.dtype, outliers.values, values);
  parts.push_back({layout[0], encode_gaps(outliers.positions)});
  parts.push_back({layout[1], std::move(values)});
}

Outliers read_outliers(const StoredTensor& tensor, const EncodedData& data) {
  if (data.scheme.input) throw Error(ErrorKind::input, fmt::format("tensor {}: {} rounds its input, and outliers are not part of its integer products", tensor.name, to_string(data.scheme)));
  Outliers outliers;
  const auto values = data.parts.find("outlier_values"), gaps = data.parts.find("outlier_gaps");
  if (values == data.parts.end() || gaps == data.parts.end()) throw Error(ErrorKind::input, fmt::format("tensor {}: part {} is missing", tensor.name, values == data.parts.end() ? "outlier_values" : "outlier_gaps"));
  const TensorView& view = values->second;
  if ((view.dtype != DType::f16 && view.dtype != DType::bf16) || view.shape.size() != 1 || view.shape[0] < 1)
    throw Error(ErrorKind::input, fmt::format("tensor {}: part outlier_values: expected a list in F16 or BF16, found {} {}", tensor.name, get_info(view.dtype).name, to_string(view.shape)));
  outliers.dtype = view.dtype;
  outliers.values.resize(static_cast<size_t>(view.shape[0]));
  decode_floats(view.dtype, view.bytes, outliers.values);
  for (float x : outliers.values)
    if (!std::isfinite(x)) throw Error(ErrorKind::input, fmt::format("tensor {}: part outlier_values: holds {}", tensor.name, x));
  auto positions = gaps->second.dtype == DType::u8 ? decode_gaps(gaps->second.bytes, view.shape[0], tensor.count()) : std::nullopt;
  if (!positions) throw Error(ErrorKind::input, fmt::format("tensor {}: part outlier_gaps: does not say {} positions below {}", tensor.name, view.shape[0], tensor.count()));
  outliers.positions = std::move(*positions);
  return outliers;
}

/// The code that means 0 in each span.
std::vector<int8_t> zero_codes(const QuantizedMatrix& matrix) {
  std::vector<int8_t> zeros(static_cast<size_t>(matrix.scale_count()));
  for (size_t i = 0; i < zeros.size(); ++i) zeros[i] = static_cast<int8_t>(matrix.zero_code(static_cast<int64_t>(i)));
  return zeros;
}

std::vector<uint8_t> mark_nonzero_codes(const QuantizedMatrix& matrix) {
  std::vector<uint8_t> marks(matrix.codes.size());
  const std::vector<int8_t> zeros = zero_codes(matrix);
  for (int64_t r = 0; r < matrix.rows; ++r)
    for (int64_t c = 0; c < matrix.cols; ++c) {
      const auto i = static_cast<size_t>(r * matrix.cols + c);
      marks[i] = matrix.codes[i] != zeros[static_cast<size_t>(matrix.scale_index(r, c))];
    }
  return marks;
}

}  // namespace llmc
