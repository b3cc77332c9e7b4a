#include "formats/codecs/gguf_codecs.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"

namespace llmc {
namespace {

/// Rounding is a pass's work: a codec only hands on what is in blocks already.
bool fits_no_tensor(const StoredTensor&) { return false; }
std::vector<TensorLayout> layout(const StoredTensor& tensor) { return {{"blocks", DType::u8, std::get<EncodedData>(tensor.form).parts.at("blocks").shape}}; }
std::vector<EncodedPart> encode(const StoredTensor& tensor) { return {{layout(tensor)[0], read_gguf_blocks(tensor)}}; }

/// Rows as they are stored: a vector whose elements have an order is a column of them.
std::pair<int64_t, int64_t> stored_size(const StoredTensor& tensor, const EncodedData& data) {
  const bool is_column = tensor.shape.size() == 1 && !data.row_order.empty();
  return is_column ? std::pair(tensor.count(), int64_t{1}) : std::pair(tensor.rows(), tensor.cols());
}

std::variant<FloatData, QuantizedMatrix> decode_gguf_blocks(const StoredTensor& tensor, const EncodedData& data) {
  const GgufTypeInfo& type = get_gguf_type(std::string(data.codec->name), tensor.name);
  const auto [rows, cols] = stored_size(tensor, data);
  if (cols % type.block != 0) throw Error(ErrorKind::input, fmt::format("tensor {}: rows of {} are not a multiple of {}, the block of {}", tensor.name, cols, type.block, type.name));
  const auto bytes = get_part(tensor, data, "blocks", DType::u8, {gguf_bytes(type, rows * cols)}).bytes;  // first: bounds what is allocated
  if (!data.row_order.empty() && std::ssize(data.row_order) != rows) throw Error(ErrorKind::bug, fmt::format("tensor {}: an order of {} for {} rows", tensor.name, data.row_order.size(), rows));
  Matrix logical(rows, cols);
  const auto row_bytes = static_cast<size_t>(gguf_bytes(type, cols));
  parallel_pieces(rows, 16, [&, cols = cols](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t stored = data.row_order.empty() ? r : data.row_order[static_cast<size_t>(r)];
      decode_gguf(type, bytes.subspan(static_cast<size_t>(stored) * row_bytes, row_bytes), {logical.row(r), static_cast<size_t>(cols)});
    }
  });
  return make_floats(tensor, logical.view());
}

/// The form in which any order of rows can be said.
EncodedData& encoded(StoredTensor& tensor) {
  if (const auto* floats = find_floats(tensor)) {
    for (const GgufTypeInfo& type : gguf_type_list()) {
      if (type.dtype != tensor.dtype) continue;
      const auto bytes = floats->bytes();
      tensor.form = EncodedData{.codec = &gguf_codecs()[static_cast<size_t>(type.type)], .scheme = {}, .parts = {{"blocks", {DType::u8, {static_cast<int64_t>(bytes.size())}, bytes}}}, .row_order = {}};
      break;
    }
  }
  return std::get<EncodedData>(tensor.form);
}

}  // namespace

std::span<const Codec> gguf_codecs() {
  static const std::vector<Codec> codecs = [] {
    std::vector<Codec> rows;
    for (const GgufTypeInfo& type : gguf_type_list()) rows.push_back({.name = type.name, .summary = "GGUF tensor type", .fits = fits_no_tensor, .layout = layout, .encode = encode, .decode = decode_gguf_blocks});
    return rows;
  }();
  return codecs;
}

StoredTensor make_gguf_tensor(const GgufTensor& tensor) {
  StoredTensor result{.name = tensor.name, .dtype = tensor.type->dtype.value_or(DType::f32), .shape = tensor.shape};
  if (tensor.type->dtype) result.form = FloatData(tensor.bytes);
  else result.form = EncodedData{.codec = &gguf_codecs()[static_cast<size_t>(tensor.type->type)], .scheme = {}, .parts = {{"blocks", {DType::u8, {static_cast<int64_t>(tensor.bytes.size())}, tensor.bytes}}}, .row_order = {}};
  return result;
}

void set_gguf_blocks(StoredTensor& tensor, const GgufTypeInfo& type, std::vector<std::byte> blocks) {
  tensor.dtype = DType::f32;
  EncodedData data{.codec = &gguf_codecs()[static_cast<size_t>(type.type)], .scheme = {}, .parts = {}, .row_order = {}, .owned = OwnedBytes(std::move(blocks))};
  data.parts["blocks"] = {DType::u8, {std::ssize(data.owned.bytes)}, data.owned.bytes};
  tensor.form = std::move(data);
}

std::vector<std::byte> read_gguf_blocks(const StoredTensor& tensor) {
  const EncodedData& data = std::get<EncodedData>(tensor.form);
  const std::span<const std::byte> stored = data.parts.at("blocks").bytes;
  std::vector<std::byte> rows(stored.begin(), stored.end());
  if (data.row_order.empty()) return rows;
  const size_t row_bytes = stored.size() / data.row_order.size();
  for (size_t r = 0; r < data.row_order.size(); ++r) std::ranges::copy(stored.subspan(static_cast<size_t>(data.row_order[r]) * row_bytes, row_bytes), rows.begin() + static_cast<ptrdiff_t>(r * row_bytes));
  return rows;
}

void set_row_order(StoredTensor& tensor, std::vector<int32_t> order) { encoded(tensor).row_order = std::move(order); }

void set_transposed(StoredTensor& tensor) {
  encoded(tensor);
  std::swap(tensor.shape[0], tensor.shape[1]);
  tensor.transposed = true;
}

const GgufTypeInfo* find_gguf_type_of(const StoredTensor& tensor) {
  const auto* data = std::get_if<EncodedData>(&tensor.form);
  return data ? find_gguf_type(data->codec->name) : nullptr;
}

}  // namespace llmc
