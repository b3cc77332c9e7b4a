// Owns the "added_tokens" of a tokenizer.json: tokens that are found in the text before a model sees it.
// Behaviour: https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/tokenizer/added_vocabulary.rs
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "calib/phrase_matcher.h"
#include "calib/text_normalizer.h"
#include "calib/vocabulary.h"
#include "formats/tokenizer_files.h"

namespace llmc {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  std::string shown;         ///< what decoding writes: the content, normalized where that is searched
  bool special = false;      ///< stands for no text of its own: BOS, EOS, padding…
  bool normalized = false;   ///< searched in the normalized text, not in the raw text
  bool single_word = false;  ///< only between characters that are not of a word
  bool lstrip = false;       ///< swallows the white space before it
  bool rstrip = false;       ///< swallows the white space after it
};

class AddedTokens {
 public:
  /// A part of a text: an added token, or text that is not one.
  struct Segment {
    std::string_view text;
    std::optional<int32_t> id;
  };

  /// Reads the list; null is empty. A token has the id that AddedTokenIds gives it; one without content or listed before is left out. Of two that are the same after
  /// normalization the first is found (Hugging Face finds one of them by chance). Throws Error(input) that lists damaged entries.
  static AddedTokens parse(const nlohmann::json* list, const Vocabulary& vocabulary, const TextNormalizer& normalizer, const std::string& where);

  /// Cuts raw text, before it is normalized; segments borrow it and none is empty.
  std::vector<Segment> split_raw(std::string_view text) const { return split(text, raw_); }
  /// Cuts normalized text.
  std::vector<Segment> split_normalized(std::string_view text) const { return split(text, normalized_); }

  const AddedToken* find(int32_t id) const;
  const AddedToken* find(std::string_view content) const;
  int32_t largest_id() const { return largest_id_; }  ///< −1 when there are none

 private:
  std::vector<Segment> split(std::string_view text, const PhraseMatcher& matcher) const;
  static AddedToken read(const nlohmann::json& entry, const std::string& where);
  void add(AddedToken token, const Vocabulary& vocabulary, AddedTokenIds& ids);

  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> by_id_;
  TextMap<size_t> by_content_;
  int32_t largest_id_ = -1;
  PhraseMatcher raw_;
  PhraseMatcher normalized_;
};

}  // namespace llmc
