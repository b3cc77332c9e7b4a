// Owns reading protocol buffers: the fields of one message, in the order of the file.
// Format: https://protobuf.dev/programming-guides/encoding
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "core/byte_cursor.h"

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
  ByteCursor cursor(std::as_bytes(std::span(message)), where);
  const auto fail = [&](const char* what) { cursor.refuse("byte " + std::to_string(cursor.position()) + ": " + what); };
  const auto need = [&](uint64_t bytes) {
    if (bytes > cursor.left()) fail("the message ends too soon");
  };
  const auto read_varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      if (shift > 63) fail("an integer has more than 64 bits");
      need(1);
      const auto byte = cursor.read<uint8_t>("integer");
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  while (cursor.left() > 0) {
    const uint64_t tag = read_varint();
    WireField field{.number = tag >> 3, .value = 0, .contents = {}};
    switch (tag & 7) {
      case 0: field.value = read_varint(); break;
      case 1: need(8), field.value = cursor.read<uint64_t>("number"); break;
      case 5: need(4), field.value = cursor.read<uint32_t>("number"); break;
      case 2: {
        const uint64_t size = read_varint();
        need(size);
        field.contents = cursor.take_text(size, "contents");
        break;
      }
      default: fail("a field of an unknown kind");
    }
    visit(field);
  }
}

}  // namespace llmc
