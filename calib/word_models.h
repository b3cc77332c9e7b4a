// Owns the models that look words up in a vocabulary: WordPiece (Schuster 2012, as BERT uses it) and WordLevel.
// Behaviour: https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/models/wordpiece/mod.rs
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "calib/phrase_matcher.h"
#include "calib/token_model.h"

namespace llmc {

/// Takes the longest token that starts a word, then the longest that goes on, and so to the end. A word for which that fails
/// is one unknown token.
class WordPiece final : public TokenModel {
 public:
  static WordPiece parse(const nlohmann::json& model, const std::string& where);

  /// Takes O(n m) for n bytes and tokens of at most m. Throws Error(input) when the unknown token is needed and not in the
  /// vocabulary.
  void encode(std::string_view word, std::vector<int32_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  explicit WordPiece(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  bool append_pieces(std::string_view word, std::vector<int32_t>& ids) const;

  Vocabulary vocabulary_;
  std::string unknown_;
  std::string prefix_;          ///< of tokens that go on with a word
  size_t most_characters_ = 0;  ///< longer words are unknown
  PhraseMatcher first_;         ///< ids by what starts a word
  PhraseMatcher next_;          ///< ids by what goes on with it, without the prefix
};

/// Every word is a token or unknown.
class WordLevel final : public TokenModel {
 public:
  static WordLevel parse(const nlohmann::json& model, const std::string& where);

  /// Throws Error(input) when the unknown token is needed and not in the vocabulary.
  void encode(std::string_view word, std::vector<int32_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  explicit WordLevel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}

  Vocabulary vocabulary_;
  std::string unknown_;
};

}  // namespace llmc
