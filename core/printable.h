// Owns text of unknown origin as it may go to a terminal.
#pragma once

#include <string>
#include <string_view>

namespace llmc {

/// The text with control characters (but line ends and tabs) and what is no UTF-8 written as \xNN.
std::string printable(std::string_view text);

/// The text, or its beginning and its end where it has more than `most` bytes, with how many are left out between.
std::string shorten(const std::string& text, size_t most);

}  // namespace llmc
