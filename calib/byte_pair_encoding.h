// Owns byte-level byte pair encoding (Sennrich 2016; on bytes: Radford 2019), as "model" of a tokenizer.json states it.
#pragma once

#include <array>
#include <string>

#include "calib/merge_table.h"
#include "calib/token_model.h"

namespace llmc {

class BytePairEncoding final : public TokenModel {
 public:
  /// Reads the "model" of a tokenizer.json whose vocabulary is spelled in the byte alphabet. Throws Error(input) that
  /// names an option that is not supported, or lists every merge that is not possible.
  static BytePairEncoding parse(const nlohmann::json& model, const std::string& where);

  /// Takes O(n log n) for n bytes. Throws Error(input) when a byte has no token.
  void encode(std::string_view word, std::vector<int32_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  BytePairEncoding(Vocabulary vocabulary, size_t merges);
  void read_merges(const nlohmann::json& list, const std::string& where);

  Vocabulary vocabulary_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_{};  ///< −1: the vocabulary has no token for the byte
  TextMap<int32_t> whole_words_;         ///< with `ignore_merges`: tokens by their bytes, tried before merging
};

}  // namespace llmc
