// Owns the unigram language model of subwords (Kudo 2018, https://arxiv.org/abs/1804.10959), as "model" of a tokenizer.json
// states it. Behaviour: https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/models/unigram/model.rs
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calib/phrase_matcher.h"
#include "calib/token_model.h"

namespace llmc {

class Unigram final : public TokenModel {
 public:
  /// Reads {"vocab": [["token", log probability], …], "unk_id", "byte_fallback"}. Throws Error(input) that lists what of
  /// the vocabulary cannot be.
  static Unigram parse(const nlohmann::json& model, const std::string& where);

  /// The most probable cut of the word (Viterbi): O(n) steps for n bytes and tokens of bounded length. Throws Error(input)
  /// for a character that no token holds when there is no unknown token.
  void encode(std::string_view word, std::vector<int32_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  explicit Unigram(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  std::vector<std::string_view> find_best_cut(std::string_view word) const;
  bool append_byte_tokens(std::string_view text, std::vector<int32_t>& ids) const;

  Vocabulary vocabulary_;
  PhraseMatcher tokens_;         ///< the vocabulary, by id
  std::vector<double> scores_;   ///< natural logarithms of probabilities, by id
  double unknown_score_ = 0;     ///< of a character that no token holds
  std::optional<int32_t> unknown_;
  bool falls_back_to_bytes_ = false;
};

}  // namespace llmc
