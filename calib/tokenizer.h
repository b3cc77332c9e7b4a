// Owns text → token ids and back, as a Hugging Face tokenizer.json describes it. Reference: https://github.com/huggingface/tokenizers
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calib/added_tokens.h"
#include "calib/post_processor.h"
#include "calib/pre_tokenizer.h"
#include "calib/text_normalizer.h"
#include "calib/token_decoder.h"
#include "calib/token_model.h"

namespace llmc {

enum class SpecialTokens { add, omit };  ///< whether the post-processor's tokens (BOS…) are added

/// Immutable; every member may be called from many threads at once.
class Tokenizer {
 public:
  /// Reads a tokenizer.json; `where` is its name. Throws Error(input) that lists every part that is damaged or not supported
  /// ("tokenizer.json: pre_tokenizer type \"Sentences\" is not supported").
  /// `truncation` and `padding` are not obeyed: they describe batches, and llmc cuts its own windows.
  static Tokenizer parse(std::string_view json, const std::string& where);

  /// The ids of a text. Added tokens are found in it, special ones too. Throws Error(input) with the position in bytes
  /// when the text is not UTF-8, and when the vocabulary lacks one of its bytes or characters and has no unknown token
  /// (Hugging Face drops that silently).
  std::vector<int32_t> encode(std::string_view utf8, SpecialTokens special) const;

  /// The same of many texts, on several threads. Throws as encode() does at the first text of those that it refuses.
  std::vector<std::vector<int32_t>> encode_all(std::span<const std::string> texts, SpecialTokens special) const;

  /// The text of ids, special tokens included; bytes that do not form characters become U+FFFD.
  /// Throws Error(input) naming an id that no token has.
  std::string decode(std::span<const int32_t> ids) const;
  /// Whether decode() knows it: a model may have more ids than its tokenizer.
  bool has_token(int32_t id) const;

  /// The one token (BOS) that the post-processor puts before a text; nothing when it puts none, or more.
  std::optional<int32_t> first_token() const { return post_processor_.before.size() == 1 ? std::optional(post_processor_.before[0]) : std::nullopt; }

  /// True for BPE over bytes: every text is its tokens' bytes.
  bool is_byte_level() const { return model_->takes_bytes(); }

  /// Largest id + 1, over model and added tokens.
  int64_t vocabulary_size() const;

  /// Bytes of UTF-8 that each id stands for: 0 for special added tokens, the length of the content for other added
  /// tokens (not the space that lstrip or rstrip swallowed), the number of bytes for all others. For ids from encode() with
  /// a byte-level vocabulary or one that falls back to bytes the sum is the size of the normalized text (plus one for every
  /// space that is put before a text) less its special tokens; for others it is about that of the decoded text. Throws
  /// Error(input) naming an id that no token has.
  std::vector<int32_t> byte_lengths(std::span<const int32_t> ids) const;

 private:
  class WordCache;
  Tokenizer() = default;
  std::vector<int32_t> encode(std::string_view utf8, SpecialTokens special, WordCache& cache) const;
  std::string_view get_name(int32_t id) const;

  std::string where_;
  std::unique_ptr<const TokenModel> model_;
  TextNormalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  AddedTokens added_tokens_;
  PostProcessor post_processor_;
  TokenDecoder decoder_;
};

}  // namespace llmc
