// Owns finding a checkpoint's tokenizer among the files that may hold it, and how its added tokens are numbered.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "formats/checkpoint.h"

namespace llmc {

/// GPT-2's two files as a tokenizer.json that says the same: vocab.json, ids by token, and merges.txt, a pair of tokens a line. `config`
/// is that of tokenizer_config.json: its special tokens, by default "<|endoftext|>", add_prefix_space and add_bos_token, as transformers'
/// GPT2Tokenizer takes them. Throws Error(input) naming the file, and the line or token.
nlohmann::json make_byte_level_tokenizer(std::string_view vocabulary, std::string_view merges, const nlohmann::json& config, const std::string& directory);

/// tokenizer.json; or what a tokenizer.model, or else the vocab.json and merges.txt of a GPT-2 tokenizer, would say as one. Nothing when there is none of
/// these, or for two files whose kind of tokenizer nothing says. Throws Error(input).
std::optional<std::string> find_tokenizer(const Checkpoint& checkpoint);

/// Ids of a tokenizer.json's added tokens, in the order of their list, as Hugging Face tokenizers give them whatever the file says: the one that the
/// vocabulary has for the token, or else the next one after all so far.
class AddedTokenIds {
 public:
  explicit AddedTokenIds(int64_t vocabulary_size) : next_(vocabulary_size) {}

  int64_t take(std::optional<int64_t> in_vocabulary) {
    const int64_t id = in_vocabulary.value_or(next_);
    next_ = std::max(next_, id < INT64_MAX ? id + 1 : id);
    return id;
  }

 private:
  int64_t next_;
};

}  // namespace llmc
