// Owns the metadata of a GGUF file: typed keys and values, in the order of the file.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace llmc {

/// The numbers are those of the format.
enum class GgufValueType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
constexpr uint32_t gguf_value_types = 13;
std::string_view to_string(GgufValueType type);
/// Bytes of a number or boolean; 0 for strings and arrays.
size_t gguf_scalar_bytes(GgufValueType type);

/// An array as the file has it: numbers and booleans as their little-endian bytes, so that a large one costs what it takes there.
struct GgufArray {
  GgufValueType element = GgufValueType::u8;
  std::variant<std::vector<std::byte>, std::vector<std::string>, std::vector<GgufArray>> items;

  size_t size() const;
  bool operator==(const GgufArray&) const = default;
};

struct GgufValue {
  GgufValueType type = GgufValueType::u8;
  std::variant<uint64_t, int64_t, double, bool, std::string, GgufArray> value;  ///< the widest of its kind; `type` says what is stored

  bool operator==(const GgufValue&) const = default;
};

GgufValue gguf_u32(uint32_t value);
GgufValue gguf_f32(float value);
GgufValue gguf_bool(bool value);
GgufValue gguf_string(std::string value);
GgufValue gguf_strings(std::vector<std::string> values);
/// Stored as one byte each.
GgufValue gguf_bools(const std::vector<bool>& values);
GgufValue gguf_f32s(const std::vector<float>& values);
GgufValue gguf_i32s(const std::vector<int32_t>& values);

struct GgufEntry {
  std::string key;
  GgufValue value;

  bool operator==(const GgufEntry&) const = default;
};

/// Finding takes time in the number of keys, of which there are some dozens.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  /// `where` is the file's name, for errors.
  explicit GgufMetadata(std::string where) : where_(std::move(where)) {}

  const std::vector<GgufEntry>& entries() const { return entries_; }
  const std::string& where() const { return where_; }

  const GgufValue* find(std::string_view key) const;
  /// Nothing when the key is absent. Throw Error(input) with file, key, expected and found when the value is of another kind.
  /// Any integer type will do for find_int, any number for find_number, integers and booleans for find_ints.
  std::optional<int64_t> find_int(std::string_view key) const;
  std::optional<double> find_number(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  const std::string* find_string(std::string_view key) const;
  const std::vector<std::string>* find_strings(std::string_view key) const;
  std::optional<std::vector<int64_t>> find_ints(std::string_view key) const;
  /// Throws Error(input) when the key is absent, too.
  const std::string& get_string(std::string_view key) const;

  /// For a key that is not there yet.
  void append(std::string key, GgufValue value) { entries_.push_back({std::move(key), std::move(value)}); }
  /// Replaces the value of a key, or appends the key.
  void set(std::string key, GgufValue value);
  void erase(std::string_view key);

 private:
  [[noreturn]] void wrong_type(std::string_view key, const char* expected, const GgufValue& found) const;

  std::string where_;
  std::vector<GgufEntry> entries_;
};

}  // namespace llmc
