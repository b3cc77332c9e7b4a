// Owns what Unicode's tables say of text: normal forms, case, categories of characters (utf8proc).
#pragma once

#include <string>
#include <string_view>

namespace llmc {

enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// `text` is valid UTF-8. Throws Error(input) when utf8proc gives up (no memory).
std::string to_normal_form(std::string_view text, NormalForm form);
/// Lower case without context, as Rust's char::to_lowercase: one character becomes one, but for U+0130.
std::string to_lowercase(std::string_view text);

bool is_mark(char32_t value);              ///< Mn, Mc or Me
bool is_nonspacing_mark(char32_t value);   ///< Mn
bool is_control_or_format(char32_t value);  ///< Cc, Cf or Co
int script_of(char32_t value);             ///< a number for each that Hugging Face's UnicodeScripts tells apart; 0: none
bool is_cjk_ideograph(char32_t value);     ///< in the blocks that BERT sets apart

/// Bytes of the extended grapheme cluster (UAX 29) at byte `begin`.
size_t grapheme_size(std::string_view text, size_t begin);

}  // namespace llmc
