#include "core/utf8.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>

namespace llmc {

namespace {

unsigned byte_at(std::string_view text, size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0; }

}  // namespace

int utf8_sequence_length(std::string_view text, size_t at) {
  const unsigned lead = byte_at(text, at);
  if (lead < 0x80) return 1;
  const int length = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (length == 0) return -1;
  unsigned lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;   // no overlong forms
  unsigned highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;  // no surrogates, nothing past U+10FFFF
  for (int i = 1; i < length; ++i, lowest = 0x80, highest = 0xBF) {
    const unsigned next = byte_at(text, at + static_cast<size_t>(i));
    if (next < lowest || next > highest) return -i;
  }
  return length;
}

size_t find_non_ascii(std::string_view text, size_t at) {
  for (uint64_t eight = 0; at + sizeof eight <= text.size(); at += sizeof eight) {
    std::memcpy(&eight, text.data() + at, sizeof eight);
    if (eight & 0x8080808080808080u) break;
  }
  while (at < text.size() && byte_at(text, at) < 0x80) ++at;
  return at;
}

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  for (size_t at = find_non_ascii(text); at < text.size(); at = find_non_ascii(text, at)) {
    const int length = utf8_sequence_length(text, at);
    if (length < 0) return at;
    at += static_cast<size_t>(length);
  }
  return std::nullopt;
}

std::string describe_invalid_utf8(std::string_view text, size_t position) {
  return fmt::format("byte {} (0x{:02X}) is not valid UTF-8", position, byte_at(text, position));
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const int length = utf8_sequence_length(text, at);
    const size_t bytes = static_cast<size_t>(length < 0 ? -length : length);
    result += length < 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(at, bytes);
    at += bytes;
  }
  return result;
}

CodePoint code_point_at(std::string_view text, size_t at) {
  const auto continuation = [&](size_t i) { return static_cast<char32_t>(byte_at(text, at + i) & 0x3F); };
  const char32_t lead = byte_at(text, at);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | continuation(1), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | continuation(1) << 6 | continuation(2), 3};
  return {(lead & 0x07) << 18 | continuation(1) << 12 | continuation(2) << 6 | continuation(3), 4};
}

CodePoint last_code_point(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (byte_at(text, at) & 0xC0) == 0x80) --at;
  return code_point_at(text, at);
}

void append_code_point(char32_t value, std::string& text) {
  const auto add = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (value < 0x80) return add(value);
  if (value < 0x800) return add(0xC0 | value >> 6), add(0x80 | (value & 0x3F));
  if (value < 0x10000) return add(0xE0 | value >> 12), add(0x80 | (value >> 6 & 0x3F)), add(0x80 | (value & 0x3F));
  add(0xF0 | value >> 18), add(0x80 | (value >> 12 & 0x3F)), add(0x80 | (value >> 6 & 0x3F)), add(0x80 | (value & 0x3F));
}

bool is_white_space(char32_t value) {
  if (value < 0x80) return value == ' ' || (value >= '\t' && value <= '\r');
  return value == 0x85 || value == 0xA0 || value == 0x1680 || (value >= 0x2000 && value <= 0x200A) || value == 0x2028 || value == 0x2029 ||
         value == 0x202F || value == 0x205F || value == 0x3000;
}

}  // namespace llmc
