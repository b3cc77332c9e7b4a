#include "formats/codecs/gguf_codecs.h"

#include <fmt/format.h>

#include <utility>

#include "core/error.h"
#include "core/parallel.h"

namespace llmc {
namespace {

bool never_fits(const StoredTensor&) { return false; }

[[noreturn]] void refuse_to_store(const StoredTensor& tensor) { throw Error(ErrorKind::bug, fmt::format("tensor {}: GGUF types round, so they cannot store it as a codec does", tensor.name)); }
std::vector<TensorLayout> no_layout(const StoredTensor& tensor) { refuse_to_store(tensor); }
std::vector<EncodedPart> no_parts(const StoredTensor& tensor) { refuse_to_store(tensor); }

/// Rows as they are stored: a vector whose elements have an order is a column of them.
std::pair<int64_t, int64_t> stored_size(const StoredTensor& tensor, const EncodedData& data) {
  const bool is_column = tensor.shape.size() == 1 && !data.row_order.empty();
  return is_column ? std::pair(tensor.count(), int64_t{1}) : std::pair(tensor.rows(), tensor.cols());
}

std::variant<FloatData, QuantizedMatrix> decode_blocks(const StoredTensor& tensor, const EncodedData& data) {
  const GgufTypeInfo& type = get_gguf_type(std::string(data.codec->name), tensor.name);
  const auto [rows, cols] = stored_size(tensor, data);
  if (cols % type.block != 0) throw Error(ErrorKind::input, fmt::format("tensor {}: rows of {} are not a multiple of {}, the block of {}", tensor.name, cols, type.block, type.name));
  const auto bytes = get_part(tensor, data, "blocks", DType::u8, {gguf_bytes(type, rows * cols)}).bytes;  // first: bounds what is allocated
  if (!data.row_order.empty() && std::ssize(data.row_order) != rows) throw Error(ErrorKind::bug, fmt::format("tensor {}: an order of {} for {} rows", tensor.name, data.row_order.size(), rows));
  Matrix logical(rows, cols);
  const auto row_bytes = static_cast<size_t>(gguf_bytes(type, cols));
  parallel_pieces(rows, 16, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t stored = data.row_order.empty() ? r : data.row_order[static_cast<size_t>(r)];
      decode_gguf(type, bytes.subspan(static_cast<size_t>(stored) * row_bytes, row_bytes), {logical.row(r), static_cast<size_t>(cols)});
    }
  });
  return make_floats(tensor, logical.view());
}

/// The form in which any order of rows can be said.
EncodedData& encoded(StoredTensor& tensor) {
  if (const auto* floats = std::get_if<FloatData>(&tensor.form)) {
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
    for (const GgufTypeInfo& type : gguf_type_list()) rows.push_back({.name = type.name, .summary = "GGUF tensor type", .fits = never_fits, .layout = no_layout, .encode = no_parts, .decode = decode_blocks});
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
