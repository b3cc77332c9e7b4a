// Owns the "pre_tokenizer" of a tokenizer.json: cutting text into the words that a model encodes one by one.
// Behaviour: https://github.com/huggingface/tokenizers/tree/main/tokenizers/src/pre_tokenizers
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calib/text_pattern.h"
#include "core/json.h"

namespace llmc {

/// What becomes of a delimiter that was found. The names are Hugging Face's.
enum class SplitBehavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

class PreTokenizer {
 public:
  using Visit = std::function<void(std::string_view word)>;

  /// Reads ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, BertPreTokenizer, Punctuation, CharDelimiterSplit, Metaspace,
  /// FixedLength, UnicodeScripts or a Sequence of these. Throws Error(input) naming what is not supported. Null cuts nothing.
  static PreTokenizer parse(const nlohmann::json* pre_tokenizer, const std::string& where);

  /// Calls `visit` with each word of valid UTF-8, from left to right; none is empty. Words borrow `text` or live until
  /// `visit` returns. `is_first`: nothing comes before the text in what the user gave, which matters to Metaspace. Throws Error(input) when
  /// an expression backtracks too much, and when steps that put something before pieces, or spell them, multiply each other.
  void split(std::string_view text, const Visit& visit, bool is_first = true) const;
  /// True when the words are to be spelled in the byte alphabet (byte_alphabet.h) before they meet the vocabulary.
  bool is_byte_level() const { return is_byte_level_; }

 private:
  /// Every kind of pre-tokenizer is one of these.
  enum class PrefixPlace { nowhere, every_piece, first_piece };
  struct Step {
    std::string space_mark;                           ///< takes the place of every space; empty: spaces stay
    PrefixPlace prefix_place = PrefixPlace::nowhere;  ///< where the mark, or a space, is put before what does not start with it
    std::optional<TextPattern> pattern;  ///< none: the piece stays whole
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;        ///< the delimiters are what the pattern does not match
    bool cuts_between_scripts = false;  ///< instead of by a pattern
    bool spells_bytes = false;  ///< in the byte alphabet, for the steps after this
  };

  void add(const nlohmann::json& pre_tokenizer, const std::string& where);
  static Step make_step(const std::string& expression, SplitBehavior behavior, bool invert = false);
  static Step read_byte_level(FieldReader& fields);
  static Step read_metaspace(FieldReader& fields);
  struct Output;
  void split_from(size_t step, std::string_view text, bool is_first, Output& output) const;

  std::vector<Step> steps_;
  bool is_byte_level_ = false;
};

}  // namespace llmc
