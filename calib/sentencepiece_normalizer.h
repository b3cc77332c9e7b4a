// Owns the normalization that a tokenizer.model describes, as SentencePiece does it and no step of a tokenizer.json can.
// Behaviour: https://github.com/google/sentencepiece/blob/master/src/normalizer.cc
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "calib/phrase_matcher.h"
#include "calib/precompiled_charsmap.h"
#include "core/json.h"

namespace llmc {

class SentencePieceNormalizer {
 public:
  /// Reads what SentencePieceModel::make_tokenizer writes: precompiled_charsmap (base64; empty: no rules), user_defined_symbols, add_dummy_prefix,
  /// remove_extra_whitespaces, treat_whitespace_as_suffix.
  explicit SentencePieceNormalizer(FieldReader& fields);

  /// At each place a user-defined symbol stays as it is, else the longest rule counts. Spaces become U+2581. Throws Error(input) when the
  /// text grows beyond measure (text_growth.h).
  std::string apply(std::string_view text) const;

 private:
  /// What a text starts with, and what becomes of it.
  struct Prefix {
    std::string_view replacement;
    size_t bytes = 0;
  };
  Prefix normalize_prefix(std::string_view text, size_t at) const;

  std::unique_ptr<const PrecompiledCharsmap> rules_;
  PhraseMatcher symbols_;
  bool adds_dummy_prefix_ = true;
  bool removes_spaces_ = true;
  bool marks_ends_ = false;  ///< the dummy space goes to the end of the text
};

/// The texts of the field "user_defined_symbols", none of which is empty.
std::vector<std::string> read_user_defined_symbols(FieldReader& fields);

}  // namespace llmc
