#include "formats/gguf_writer.h"

#include <fmt/format.h>

#include "core/error.h"

namespace llmc {
namespace {

template <typename Number>
void put(std::string& out, Number value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, const std::string& text) {
  put<uint64_t>(out, text.size());
  out += text;
}

void put_array(std::string& out, const GgufArray& array) {
  put(out, static_cast<uint32_t>(array.element));
  put<uint64_t>(out, array.size());
  if (const auto* bytes = std::get_if<std::vector<std::byte>>(&array.items)) out.append(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  if (const auto* strings = std::get_if<std::vector<std::string>>(&array.items))
    for (const std::string& text : *strings) put_string(out, text);
  if (const auto* arrays = std::get_if<std::vector<GgufArray>>(&array.items))
    for (const GgufArray& inner : *arrays) put_array(out, inner);
}

void put_value(std::string& out, const GgufValue& value) {
  put(out, static_cast<uint32_t>(value.type));
  const auto unsigned_value = [&] { return std::get<uint64_t>(value.value); };
  const auto signed_value = [&] { return std::get<int64_t>(value.value); };
  switch (value.type) {
    case GgufValueType::u8: return put(out, static_cast<uint8_t>(unsigned_value()));
    case GgufValueType::u16: return put(out, static_cast<uint16_t>(unsigned_value()));
    case GgufValueType::u32: return put(out, static_cast<uint32_t>(unsigned_value()));
    case GgufValueType::u64: return put(out, unsigned_value());
    case GgufValueType::i8: return put(out, static_cast<int8_t>(signed_value()));
    case GgufValueType::i16: return put(out, static_cast<int16_t>(signed_value()));
    case GgufValueType::i32: return put(out, static_cast<int32_t>(signed_value()));
    case GgufValueType::i64: return put(out, signed_value());
    case GgufValueType::f32: return put(out, static_cast<float>(std::get<double>(value.value)));
    case GgufValueType::f64: return put(out, std::get<double>(value.value));
    case GgufValueType::boolean: return put(out, static_cast<uint8_t>(std::get<bool>(value.value)));
    case GgufValueType::string: return put_string(out, std::get<std::string>(value.value));
    case GgufValueType::array: return put_array(out, std::get<GgufArray>(value.value));
  }
}

uint64_t alignment_of(const GgufMetadata& metadata) { return static_cast<uint64_t>(metadata.find_int("general.alignment").value_or(gguf_default_alignment)); }

uint64_t round_up(uint64_t size, uint64_t alignment) { return (size + alignment - 1) / alignment * alignment; }

/// All that comes before the data, padding included.
std::string make_gguf_header(const GgufMetadata& metadata, const std::vector<GgufLayout>& layouts) {
  constexpr uint32_t version = 3;
  const uint64_t alignment = alignment_of(metadata);
  std::string out = "GGUF";
  put(out, version);
  put<uint64_t>(out, layouts.size());
  put<uint64_t>(out, metadata.entries().size());
  for (const GgufEntry& entry : metadata.entries()) {
    put_string(out, entry.key);
    put_value(out, entry.value);
  }
  uint64_t offset = 0;
  for (const GgufLayout& layout : layouts) {
    if (layout.name.size() > gguf_longest_name || layout.shape.empty() || layout.shape.size() > gguf_most_dimensions) throw Error(ErrorKind::bug, fmt::format("tensor {}: GGUF cannot hold its name or its shape {}", layout.name, to_string(layout.shape)));
    put_string(out, layout.name);
    put(out, static_cast<uint32_t>(layout.shape.size()));
    for (auto size = layout.shape.rbegin(); size != layout.shape.rend(); ++size) put(out, static_cast<uint64_t>(*size));
    put(out, layout.type->id);
    put(out, offset);
    offset += round_up(layout.bytes(), alignment);
  }
  out.resize(round_up(out.size(), alignment), '\0');
  return out;
}

}  // namespace

uint64_t gguf_file_bytes(const GgufMetadata& metadata, const std::vector<GgufLayout>& layouts) {
  uint64_t bytes = make_gguf_header(metadata, layouts).size();
  for (const GgufLayout& layout : layouts) bytes += round_up(layout.bytes(), alignment_of(metadata));
  return bytes;
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, const std::vector<GgufLayout>& layouts) : file_(path, make_gguf_header(metadata, layouts)), alignment_(alignment_of(metadata)) {
  uint64_t offset = file_.size();
  for (const GgufLayout& layout : layouts) {
    file_.place(layout.name, offset, layout.bytes());
    offset += round_up(layout.bytes(), alignment_);
  }
}

void GgufWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const uint64_t end = file_.write(name, bytes);
  file_.pad(end, round_up(bytes.size(), alignment_) - bytes.size());
}

void GgufWriter::close() { file_.close(); }

}  // namespace llmc
