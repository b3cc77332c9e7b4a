// Owns the "pre_tokenizer" of a tokenizer.json: cutting text into the words that a model encodes one by one.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calib/text_pattern.h"

namespace llmc {

/// What becomes of a delimiter that was found. The names are Hugging Face's.
enum class SplitBehavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

class PreTokenizer {
 public:
  using Visit = std::function<void(std::string_view word)>;

  /// Reads ByteLevel, Split, Digits or a Sequence of these; ByteLevel must come last. Throws Error(input) naming what
  /// is not supported. Null cuts nothing.
  static PreTokenizer parse(const nlohmann::json* pre_tokenizer, const std::string& where);

  /// Calls `visit` with each word of valid UTF-8, from left to right; none is empty. Words borrow `text` or live until
  /// `visit` returns.
  void split(std::string_view text, const Visit& visit) const { split_from(0, text, visit); }
  /// True when the words are to be spelled in the byte alphabet (byte_alphabet.h) before they meet the vocabulary.
  bool is_byte_level() const { return is_byte_level_; }

 private:
  /// Every kind of pre-tokenizer is one of these.
  struct Step {
    bool add_prefix_space = false;       ///< before a piece that does not start with a space
    std::optional<TextPattern> pattern;  ///< none: the piece stays whole
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;  ///< the delimiters are what the pattern does not match
  };

  void add(const nlohmann::json& pre_tokenizer, const std::string& where);
  void split_from(size_t step, std::string_view text, const Visit& visit) const;

  std::vector<Step> steps_;
  bool is_byte_level_ = false;
};

}  // namespace llmc
