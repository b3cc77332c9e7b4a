#include "core/printable.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/utf8.h"

namespace llmc {

namespace {

bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return (first < 0x20 && first != '\n' && first != '\t') || first == 0x7f;
  return character.size() == 2 && first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;  // U+0080 to U+009F
}

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const int length = utf8_sequence_length(text, 0);
    const std::string_view character = text.substr(0, static_cast<size_t>(std::max(length, 1)));
    if (length > 0 && !is_control(character)) result += character;
    else
      for (char byte : character) result += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
    text.remove_prefix(character.size());
  }
  return result;
}

std::string shorten(const std::string& text, size_t most) {
  if (text.size() <= most) return text;
  size_t head = most * 3 / 4, tail = text.size() - most / 4;
  while (head > 0 && continues_character(text[head])) --head;
  while (tail < text.size() && continues_character(text[tail])) ++tail;
  return fmt::format("{} … ({} bytes more) … {}", text.substr(0, head), tail - head, text.substr(tail));
}

}  // namespace llmc
