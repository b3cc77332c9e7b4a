// Owns the unigram and word models of a tokenizer.model, as SentencePiece encodes with them.
// Behaviour: https://github.com/google/sentencepiece/blob/master/src/unigram_model.cc (EncodeOptimized; of 0.2.3), word_model.cc
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calib/phrase_matcher.h"
#include "calib/token_model.h"

namespace llmc {

class SentencePieceEncoding final : public TokenModel {
 public:
  /// Reads what SentencePieceModel::make_tokenizer writes: {"kind": "unigram" or "word", "pieces": [["text", score, type], …], "byte_fallback"}.
  static SentencePieceEncoding parse(const nlohmann::json& model, const std::string& where);

  /// Unigram: the most probable cut, by sums in float32. Word: a word is what starts with U+2581. What no piece holds is spelled in bytes, or
  /// neighbours of it are one unknown token.
  void encode(std::string_view text, std::vector<int32_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  /// A part of the text from left to right.
  struct Part {
    std::string_view text;
    int32_t id = 0;
  };

  explicit SentencePieceEncoding(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  std::vector<Part> find_best_cut(std::string_view text) const;
  std::vector<Part> find_words(std::string_view text) const;

  Vocabulary vocabulary_;
  PhraseMatcher pieces_;           ///< those that are text, by id
  std::vector<float> scores_;      ///< by id; those of user-defined pieces are such that they are not cut
  float least_score_ = 0;          ///< of those that are not user-defined
  int32_t unknown_ = 0;
  std::vector<int32_t> byte_ids_;  ///< empty: no falling back to bytes
  bool is_word_ = false;
};

}  // namespace llmc
