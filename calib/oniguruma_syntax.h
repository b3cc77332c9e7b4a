// Owns the translation of tokenizer.json's regular expressions, which are Oniguruma's, to PCRE2's syntax.
// Sources: https://github.com/kkos/oniguruma/blob/master/doc/RE (syntax ONIG_SYNTAX_ONIGURUMA), pcre2pattern(3).
#pragma once

#include <string>
#include <string_view>

namespace llmc {

/// The PCRE2 expression (for UTF and UCP) that matches the same text. The two libraries differ in \s, \w, \v, ^, $,
/// nested classes and scripts; what is not known to mean the same is refused: throws Error(input) with the construct and
/// its position in bytes. `expression` is valid UTF-8.
std::string translate_oniguruma(std::string_view expression, const std::string& where);

/// The expression that matches exactly this text.
std::string escape_literal(std::string_view text);

}  // namespace llmc
