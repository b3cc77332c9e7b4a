// Owns GPT-2's alphabet, in which byte-level vocabularies are spelled: one printable character for each byte.
// Source: bytes_to_unicode in https://github.com/openai/gpt-2/blob/master/src/encoder.py
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace llmc {

/// The bytes that a token stands for, or nothing when a character (of valid UTF-8) is not in the alphabet.
std::optional<std::string> find_spelled_bytes(std::string_view token);
/// The token that stands for these bytes.
std::string spell_bytes(std::string_view bytes);

}  // namespace llmc
