// Owns SentencePiece's compiled normalization rules: a double-array trie from text to replacements, as in
// `precompiled_charsmap` of a tokenizer.json. Format: https://github.com/google/sentencepiece/blob/master/src/normalizer.cc
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

class PrecompiledCharsmap {
 public:
  /// Reads base64 of: u32 n, n bytes of trie (u32 units), replacements that end with a zero byte; little endian. Throws
  /// Error(input) for text that is not that.
  PrecompiledCharsmap(std::string_view base64, const std::string& where);

  /// Replaces what the rules name: grapheme clusters of at most five bytes, else characters. As in Hugging Face's, the shortest
  /// rule that starts such a part replaces all of it. Throws Error(input) when the trie leads out of its file.
  std::string apply(std::string_view text) const;

  struct Rule {
    std::string_view replacement;
    size_t bytes = 0;  ///< of the text that it replaces
  };
  /// The longest rule that a text starts with, as SentencePiece itself takes. Throws as apply() does.
  std::optional<Rule> find_longest(std::string_view text) const;

 private:
  enum class Taken { shortest, longest };
  std::optional<Rule> find_rule(std::string_view part, Taken taken) const;
  std::optional<std::string_view> find_replacement(std::string_view part) const;
  uint32_t unit_at(uint32_t position) const;

  std::string where_;
  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace llmc
