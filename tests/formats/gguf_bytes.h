// Owns building the bytes of a GGUF file piece by piece, so that tests can make each of them lie.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llmc::test {

template <typename Number>
std::string number_bytes(Number value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
inline std::string u32(uint32_t value) { return number_bytes(value); }
inline std::string u64(uint64_t value) { return number_bytes(value); }
inline std::string text(const std::string& value) { return u64(value.size()) + value; }

/// Types of values, by their numbers in the format.
enum : uint32_t { value_u8 = 0, value_u32 = 4, value_i32 = 5, value_f32 = 6, value_bool = 7, value_string = 8, value_array = 9, value_u64 = 10 };
inline std::string entry(const std::string& key, uint32_t type, const std::string& value) { return text(key) + u32(type) + value; }
inline std::string tensor(const std::string& name, const std::vector<uint64_t>& dimensions, uint32_t type, uint64_t offset) {
  std::string bytes = text(name) + u32(static_cast<uint32_t>(dimensions.size()));
  for (uint64_t size : dimensions) bytes += u64(size);
  return bytes + u32(type) + u64(offset);
}

/// A file of these parts. The counts say how many there are unless a test says otherwise.
struct GgufBytes {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::vector<std::string> entries;
  std::vector<std::string> tensors;
  std::string data;
  uint64_t alignment = 32;
  int64_t more_entries = 0, more_tensors = 0;

  std::string bytes() const {
    std::string out = magic + u32(version) + u64(tensors.size() + static_cast<uint64_t>(more_tensors)) + u64(entries.size() + static_cast<uint64_t>(more_entries));
    for (const std::string& part : entries) out += part;
    for (const std::string& part : tensors) out += part;
    if (!data.empty()) out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
    return out + data;
  }
};

}  // namespace llmc::test
