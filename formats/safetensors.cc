#include "formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/shown.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr uint64_t most_header_bytes = 100'000'000;  // the limit of the reference implementation
constexpr size_t most_header_values = 4'000'000;     // lists, objects and what commas part: over 300'000 tensors
constexpr size_t most_shape_dimensions = 16;

/// What a header may not be, in one pass and before anything is made of it: begun by something else than `{`, of more values than
/// memory should be spent on, or with a list longer than any shape. Quotes and brackets that do not match are the parser's.
void check_header_text(std::string_view text, const std::string& where) {
  if (!text.starts_with('{')) throw Error(ErrorKind::input, fmt::format("{}: the header is not a JSON object: expected its first byte to be {{, found {}", where, text.empty() ? "none" : fmt::format("0x{:02x}", static_cast<unsigned char>(text[0]))));
  size_t values = 0, in_list = 0;
  bool is_list = false, is_text = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char letter = text[at];
    if (letter == '"') is_text = !is_text;
    if (is_text) at += letter == '\\';
    if (is_text || (letter != ',' && letter != '[' && letter != '{' && letter != ']')) continue;
    if (++values > most_header_values) throw Error(ErrorKind::input, fmt::format("{}: the header holds more than {} values", where, most_header_values));
    if (letter != ',') is_list = letter == '[', in_list = 0;
    else if (is_list && ++in_list >= most_shape_dimensions) throw Error(ErrorKind::input, fmt::format("{}: the header has a list of more than {} numbers at byte {}; expected shapes of {} dimensions at most", where, most_shape_dimensions, at, most_shape_dimensions));
  }
}

std::vector<int64_t> read_counts(const json& list) {
  std::vector<int64_t> counts;
  for (const json& item : list) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > INT64_MAX) throw Error(ErrorKind::input, fmt::format("expected a list of non-negative integers, found {}", shown(list.dump())));
    counts.push_back(item.get<int64_t>());
  }
  return counts;
}

NamedTensor read_entry(const std::string& name, const json& entry, std::span<const std::byte> data) {
  FieldReader fields(entry, "header entry");
  const std::string dtype_name = fields.get_string("dtype");
  const json* shape = fields.find("shape");
  const json* offsets = fields.find("data_offsets");
  if (!shape || !shape->is_array()) throw Error(ErrorKind::input, "field \"shape\" is missing or not a list");
  if (!offsets || !offsets->is_array() || offsets->size() != 2) throw Error(ErrorKind::input, "field \"data_offsets\" is missing or not a pair");
  fields.finish();

  NamedTensor result{name, {}};
  const auto dtype = find_dtype(dtype_name);
  if (!dtype) throw Error(ErrorKind::input, fmt::format("dtype {} is not known", shown(dtype_name)));
  result.tensor.dtype = *dtype;
  result.tensor.shape = read_counts(*shape);
  const std::vector<int64_t> range = read_counts(*offsets);
  const int64_t available = static_cast<int64_t>(data.size());
  if (range[0] > range[1] || range[1] > available)
    throw Error(ErrorKind::input, fmt::format("data at bytes {} to {}, but the file holds {} bytes of data", range[0], range[1], available));
  int64_t expected = element_count(result.tensor.shape, "shape");
  if (__builtin_mul_overflow(expected, static_cast<int64_t>(get_info(*dtype).bytes), &expected) || expected != range[1] - range[0])
    throw Error(ErrorKind::input, fmt::format("{} {} needs {} bytes, found {}", dtype_name, to_string(result.tensor.shape), expected, range[1] - range[0]));
  result.tensor.bytes = data.subspan(static_cast<size_t>(range[0]), static_cast<size_t>(range[1] - range[0]));
  return result;
}

}  // namespace

SafetensorsContent parse_safetensors(std::span<const std::byte> bytes, const std::string& where) {
  const auto refuse = [&](const std::string& what) { return Error(ErrorKind::input, fmt::format("{}: {}", where, what)); };
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) throw refuse(fmt::format("truncated: a safetensors file has at least 8 bytes, found {}", bytes.size()));
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > most_header_bytes) throw refuse(fmt::format("header of {} bytes is over the limit of {}", header_bytes, most_header_bytes));
  if (header_bytes > bytes.size() - sizeof header_bytes)
    throw refuse(fmt::format("truncated: the header needs {} bytes, found {}", header_bytes, bytes.size() - sizeof header_bytes));

  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof header_bytes, header_bytes);
  const std::span<const std::byte> data = bytes.subspan(sizeof header_bytes + header_bytes);
  check_header_text(text, where);
  const json header = parse_json(text, where + " (header)");

  SafetensorsContent content;
  Problems problems;
  for (const auto& [name, entry] : header.items()) {
    try {
      if (name != "__metadata__") {
        content.tensors.push_back(read_entry(name, entry, data));
        continue;
      }
      if (!entry.is_object()) throw Error(ErrorKind::input, "is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) throw Error(ErrorKind::input, fmt::format("\"{}\" is not a string", shown(key)));
        content.metadata[key] = value.get<std::string>();
      }
    } catch (const Error& problem) {
      problems.add(fmt::format("tensor {}: {}", shown(name), problem.what()));
    }
  }
  problems.throw_if_any(ErrorKind::input, where);

  std::ranges::sort(content.tensors, [](const NamedTensor& a, const NamedTensor& b) {
    return std::pair(a.tensor.bytes.data(), a.tensor.bytes.size()) < std::pair(b.tensor.bytes.data(), b.tensor.bytes.size());
  });
  int64_t end = 0;
  for (const NamedTensor& entry : content.tensors) {
    const int64_t begin = entry.tensor.bytes.data() - data.data();
    if (begin < end) problems.add(fmt::format("tensor {}: overlaps the tensor before it: starts at byte {}, expected {}", entry.name, begin, end));
    if (begin > end) problems.add(fmt::format("tensor {}: a hole before it: starts at byte {}, expected {}", entry.name, begin, end));
    end = begin + static_cast<int64_t>(entry.tensor.bytes.size());
  }
  if (problems.empty() && end != static_cast<int64_t>(data.size()))
    problems.add(fmt::format("the tensors end at byte {} of the data, but the file holds {}", end, data.size()));
  problems.throw_if_any(ErrorKind::input, where);
  return content;
}

int64_t TensorLayout::bytes() const { return element_count(shape, name) * static_cast<int64_t>(get_info(dtype).bytes); }

namespace {

std::string make_header(std::vector<TensorLayout>& layouts, const std::map<std::string, std::string>& metadata) {
  std::ranges::sort(layouts, [](const TensorLayout& a, const TensorLayout& b) {
    return std::pair(-static_cast<int64_t>(get_info(a.dtype).bytes), a.name) < std::pair(-static_cast<int64_t>(get_info(b.dtype).bytes), b.name);
  });
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const TensorLayout& layout : layouts) {
    if (header.contains(layout.name)) throw Error(ErrorKind::bug, fmt::format("tensor {} would be written twice", layout.name));
    header[layout.name] = {{"dtype", get_info(layout.dtype).name}, {"shape", layout.shape}, {"data_offsets", {offset, offset + layout.bytes()}}};
    offset += layout.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorLayout> layouts, const std::map<std::string, std::string>& metadata) : file_(path, make_header(layouts, metadata)) {
  uint64_t offset = file_.size();
  for (const TensorLayout& layout : layouts) {
    file_.place(layout.name, offset, static_cast<uint64_t>(layout.bytes()));
    offset += static_cast<uint64_t>(layout.bytes());
  }
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) { file_.write(name, bytes); }

void SafetensorsWriter::close() { file_.close(); }

}  // namespace llmc
