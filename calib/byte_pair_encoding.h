// Owns byte pair encoding (Sennrich 2016; on bytes: Radford 2019), as "model" of a tokenizer.json states it.
// Behaviour: https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/models/bpe/model.rs
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "calib/merge_table.h"
#include "calib/phrase_matcher.h"
#include "calib/token_model.h"

namespace llmc {

/// Words start as bytes (byte-level) or as characters. A character without a token is spelled in byte tokens ("<0x0A>",
/// `byte_fallback`), or becomes the unknown token.
class BytePairEncoding final : public TokenModel {
 public:
  /// Reads the "model" of a tokenizer.json; byte-level vocabularies are spelled in the byte alphabet. Throws Error(input)
  /// that names an option that is not supported, or lists every merge that is not possible.
  static BytePairEncoding parse(const nlohmann::json& model, const std::string& where, bool is_byte_level = true);

  /// Takes O(n log n) for n bytes. Throws Error(input) when a byte or character has no token and cannot be replaced.
  void encode(std::string_view word, std::vector<int32_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }
  bool takes_bytes() const override { return takes_bytes_; }
  /// Before a space mark (U+2581) that no merge joins to what is before it, as in Llama 2's vocabulary.
  size_t find_cut(std::string_view word, size_t begin) const override;

 private:
  BytePairEncoding(Vocabulary vocabulary, size_t merges);
  void read_merges(const nlohmann::json& list, const std::string& where);
  bool can_cut_at_spaces() const;
  std::vector<int32_t> byte_symbols(std::string_view word) const;
  std::vector<int32_t> character_symbols(std::string_view word) const;
  bool append_byte_tokens(std::string_view text, std::vector<int32_t>& symbols) const;

  Vocabulary vocabulary_;
  MergeTable merges_;
  bool merges_cross_spaces_ = false;     ///< a merge joins a space mark to what is before it
  bool takes_bytes_ = false;
  std::array<int32_t, 256> byte_ids_{};  ///< tokens of bytes, spelled in the alphabet or as "<0x0A>"; −1: there is none
  std::string unknown_;                  ///< token of characters that have none; empty: such are refused
  std::string prefix_, suffix_;          ///< of all symbols but the first; of the last
  bool fuses_unknown_ = false;           ///< neighbouring unknown characters are one token
  bool falls_back_to_bytes_ = false;
  bool ignores_merges_ = false;          ///< a word that is in the vocabulary is one token
  bool cuts_at_spaces_ = false;
  std::optional<PhraseMatcher> whole_symbols_;  ///< by id; a tokenizer.model's: the longest is taken before all merges, and none has a part in one
  TextMap<int32_t> whole_words_;                ///< with `ignore_merges` and bytes: tokens by their bytes
};

}  // namespace llmc
