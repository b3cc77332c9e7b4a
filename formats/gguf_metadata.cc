#include "formats/gguf_metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "core/error.h"

namespace llmc {
namespace {

struct ValueTypeRow {
  std::string_view name;
  size_t bytes;
};
constexpr std::array<ValueTypeRow, gguf_value_types> value_types = {{{"u8", 1}, {"i8", 1}, {"u16", 2}, {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4}, {"boolean", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8}}};

std::optional<int64_t> as_int(const GgufValue& value) {
  if (const auto* number = std::get_if<int64_t>(&value.value)) return *number;
  const auto* number = std::get_if<uint64_t>(&value.value);
  return number && *number <= INT64_MAX ? std::optional(static_cast<int64_t>(*number)) : std::nullopt;
}

template <typename Integer>
std::vector<int64_t> widen_values(const std::vector<std::byte>& bytes) {
  std::vector<int64_t> values;
  for (size_t at = 0; at < bytes.size(); at += sizeof(Integer)) {
    Integer value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    values.push_back(static_cast<int64_t>(value));
  }
  return values;
}

std::optional<std::vector<int64_t>> as_ints(const GgufArray& array) {
  const auto* bytes = std::get_if<std::vector<std::byte>>(&array.items);
  if (!bytes) return std::nullopt;
  switch (array.element) {
    case GgufValueType::boolean:
    case GgufValueType::u8: return widen_values<uint8_t>(*bytes);
    case GgufValueType::i8: return widen_values<int8_t>(*bytes);
    case GgufValueType::u16: return widen_values<uint16_t>(*bytes);
    case GgufValueType::i16: return widen_values<int16_t>(*bytes);
    case GgufValueType::u32: return widen_values<uint32_t>(*bytes);
    case GgufValueType::i32: return widen_values<int32_t>(*bytes);
    case GgufValueType::i64: return widen_values<int64_t>(*bytes);
    default: return std::nullopt;
  }
}

template <typename Number>
std::vector<std::byte> bytes_of(const std::vector<Number>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

std::string_view to_string(GgufValueType type) { return value_types[static_cast<size_t>(type)].name; }
size_t gguf_scalar_bytes(GgufValueType type) { return value_types[static_cast<size_t>(type)].bytes; }

size_t GgufArray::size() const {
  if (const auto* bytes = std::get_if<std::vector<std::byte>>(&items)) return bytes->size() / gguf_scalar_bytes(element);
  if (const auto* strings = std::get_if<std::vector<std::string>>(&items)) return strings->size();
  return std::get<std::vector<GgufArray>>(items).size();
}

GgufValue gguf_u32(uint32_t value) { return {GgufValueType::u32, uint64_t{value}}; }
GgufValue gguf_f32(float value) { return {GgufValueType::f32, double{value}}; }
GgufValue gguf_bool(bool value) { return {GgufValueType::boolean, value}; }
GgufValue gguf_string(std::string value) { return {GgufValueType::string, std::move(value)}; }
GgufValue gguf_strings(std::vector<std::string> values) { return {GgufValueType::array, GgufArray{GgufValueType::string, std::move(values)}}; }
GgufValue gguf_bools(const std::vector<bool>& values) {
  std::vector<std::byte> bytes;
  for (bool value : values) bytes.push_back(value ? std::byte{1} : std::byte{0});
  return {GgufValueType::array, GgufArray{GgufValueType::boolean, std::move(bytes)}};
}
GgufValue gguf_f32s(const std::vector<float>& values) { return {GgufValueType::array, GgufArray{GgufValueType::f32, bytes_of(values)}}; }
GgufValue gguf_i32s(const std::vector<int32_t>& values) { return {GgufValueType::array, GgufArray{GgufValueType::i32, bytes_of(values)}}; }

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto entry = std::ranges::find(entries_, key, &GgufEntry::key);
  return entry == entries_.end() ? nullptr : &entry->value;
}

void GgufMetadata::wrong_type(std::string_view key, const char* expected, const GgufValue& found) const {
  throw Error(ErrorKind::input, fmt::format("{}: key {}: expected {}, found {}", where_, key, expected, to_string(found.type)));
}

std::optional<int64_t> GgufMetadata::find_int(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  const auto number = as_int(*value);
  if (!number) wrong_type(key, "an integer below 2^63", *value);
  return number;
}

std::optional<double> GgufMetadata::find_number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (const auto number = as_int(*value)) return static_cast<double>(*number);
  const auto* number = std::get_if<double>(&value->value);
  if (!number) wrong_type(key, "a number", *value);
  return *number;
}

std::optional<bool> GgufMetadata::find_bool(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  const auto* flag = std::get_if<bool>(&value->value);
  if (!flag) wrong_type(key, "a boolean", *value);
  return *flag;
}

const std::string* GgufMetadata::find_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return nullptr;
  const auto* text = std::get_if<std::string>(&value->value);
  if (!text) wrong_type(key, "a string", *value);
  return text;
}

const std::vector<std::string>* GgufMetadata::find_strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return nullptr;
  const auto* array = std::get_if<GgufArray>(&value->value);
  const auto* strings = array ? std::get_if<std::vector<std::string>>(&array->items) : nullptr;
  if (!strings) wrong_type(key, "an array of strings", *value);
  return strings;
}

std::optional<std::vector<int64_t>> GgufMetadata::find_ints(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(&value->value);
  auto numbers = array ? as_ints(*array) : std::nullopt;
  if (!numbers) wrong_type(key, "an array of integers", *value);
  return numbers;
}

const std::string& GgufMetadata::get_string(std::string_view key) const {
  const std::string* text = find_string(key);
  if (!text) throw Error(ErrorKind::input, fmt::format("{}: key {} is missing", where_, key));
  return *text;
}

void GgufMetadata::set(std::string key, GgufValue value) {
  const auto entry = std::ranges::find(entries_, key, &GgufEntry::key);
  if (entry == entries_.end()) entries_.push_back({std::move(key), std::move(value)});
  else entry->value = std::move(value);
}

void GgufMetadata::erase(std::string_view key) {
  std::erase_if(entries_, [&](const GgufEntry& entry) { return entry.key == key; });
}

}  // namespace llmc
