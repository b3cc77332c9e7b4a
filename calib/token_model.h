// Owns the interface of the step that turns one pre-token into ids, and which models there are.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "calib/vocabulary.h"

namespace llmc {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  /// Appends the ids of one pre-token, which is valid UTF-8 and not empty. The same word always gives the same ids, so
  /// a caller may keep them. Throws Error(input) when the vocabulary cannot express the word.
  virtual void encode(std::string_view word, std::vector<int32_t>& ids) const = 0;
  virtual const Vocabulary& vocabulary() const = 0;
  /// True when byte-level words come as they are; other models want them spelled in the byte alphabet (byte_alphabet.h).
  virtual bool takes_bytes() const { return false; }
  /// Where the part of a word that starts at byte `begin` may end, so that parts encoded by themselves give the ids of the
  /// whole: parts come again more often than long words do.
  virtual size_t find_cut(std::string_view word, size_t /*begin*/) const { return word.size(); }

  /// The token for byte 0x0A in vocabularies that fall back to bytes: "<0x0A>".
  static std::string byte_token(unsigned char byte);
};

/// Reads the "model" of a tokenizer.json: BPE, Unigram, WordPiece or WordLevel, or llmc's own SentencePiece. Throws Error(input) naming any other type.
std::unique_ptr<const TokenModel> read_token_model(const nlohmann::json* model, bool is_byte_level);

}  // namespace llmc
