#include "calib/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "core/utf8.h"

namespace llmc {

namespace {

/// Printable Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and up, in order.
constexpr bool stands_for_itself(int byte) { return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD); }

struct Alphabet {
  std::array<char32_t, 256> characters{};
  std::array<int16_t, 256 + 68> bytes{};  ///< −1: not in the alphabet

  constexpr Alphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t character = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
      characters[static_cast<size_t>(byte)] = character;
      bytes[character] = static_cast<int16_t>(byte);
    }
  }
};
constexpr Alphabet alphabet;

}  // namespace

std::optional<std::string> find_spelled_bytes(std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const CodePoint character = code_point_at(token, at);
    if (character.value >= alphabet.bytes.size() || alphabet.bytes[character.value] < 0) return std::nullopt;
    bytes += static_cast<char>(alphabet.bytes[character.value]);
    at += character.bytes;
  }
  return bytes;
}

std::string spell_bytes(std::string_view bytes) {
  std::string token;
  for (char byte : bytes) append_code_point(alphabet.characters[static_cast<unsigned char>(byte)], token);
  return token;
}

}  // namespace llmc
