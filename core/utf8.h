// Owns reading text as UTF-8: validity, code points, and the repair of broken sequences.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace llmc {

/// Bytes of the well-formed sequence that starts at byte `at`, which is less than the size; or minus the bytes of the ill-formed part there.
int utf8_sequence_length(std::string_view text, size_t at);
/// Position in bytes of the first sequence that is not well formed (Unicode 15, table 3-7), or nothing.
std::optional<size_t> find_invalid_utf8(std::string_view text);
/// "byte 17 (0xFF) is not valid UTF-8"
std::string describe_invalid_utf8(std::string_view text, size_t position);
/// The text with every ill-formed part, cut as Unicode 15 section 3.9 recommends, replaced by U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

/// The first byte from `from` on that is not ASCII, or the size.
size_t find_non_ascii(std::string_view text, size_t from = 0);

struct CodePoint {
  char32_t value = 0;
  size_t bytes = 0;
};
/// The code point that starts at byte `at` of valid UTF-8; `at` is less than the size.
CodePoint code_point_at(std::string_view text, size_t at);
/// The last code point of valid UTF-8 that is not empty.
CodePoint last_code_point(std::string_view text);
void append_code_point(char32_t value, std::string& text);

/// Unicode's White_Space property.
bool is_white_space(char32_t value);

}  // namespace llmc
