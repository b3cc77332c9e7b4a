// Owns reading protocol buffers: the fields of one message, in the order of the file.
// Format: https://protobuf.dev/programming-guides/encoding
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "core/error.h"

namespace llmc {

struct WireField {
  uint64_t number = 0;
  uint64_t value = 0;         ///< of an integer, or the bits of a fixed-size one
  std::string_view contents;  ///< of text, bytes or a message within

  float as_float() const {
    const auto bits = static_cast<uint32_t>(value);
    float result = 0;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }
};

/// Calls `visit` with every field. Throws Error(input) naming the byte where the message ends too soon, or has a group.
template <typename Visit>
void for_each_field(std::string_view message, const std::string& where, Visit visit) {
  size_t at = 0;
  const auto fail = [&](const char* what) { throw Error(ErrorKind::input, where + ": byte " + std::to_string(at) + ": " + what); };
  const auto need = [&](uint64_t bytes) {
    if (bytes > message.size() - at) fail("the message ends too soon");
  };
  const auto read_fixed = [&](size_t bytes) {
    need(bytes);
    uint64_t value = 0;
    std::memcpy(&value, message.data() + at, bytes);
    at += bytes;
    return value;
  };
  const auto read_varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      if (shift > 63) fail("an integer has more than 64 bits");
      const uint64_t byte = read_fixed(1);
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const uint64_t tag = read_varint();
    WireField field{.number = tag >> 3, .value = 0, .contents = {}};
    switch (tag & 7) {
      case 0: field.value = read_varint(); break;
      case 1: field.value = read_fixed(8); break;
      case 5: field.value = read_fixed(4); break;
      case 2: {
        const uint64_t size = read_varint();
        need(size);
        field.contents = message.substr(at, size);
        at += size;
        break;
      }
      default: fail("a field of an unknown kind");
    }
    visit(field);
  }
}

}  // namespace llmc
