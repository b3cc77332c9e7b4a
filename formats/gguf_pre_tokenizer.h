// Owns the pre-tokenizers that GGUF files have names for, in the words of a tokenizer.json.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

/// A step of a pre-tokenizer. `gpt2` is GPT-2's regular expression; `bytes` turns bytes into letters, and nearly always comes last.
struct PreTokenizerPart {
  enum class Kind { split, digit, number, punctuation, gpt2, bytes };
  Kind kind = Kind::split;
  std::string regex;  ///< of split: what matches is a word of its own

  bool operator==(const PreTokenizerPart&) const = default;
};

/// How llama.cpp cuts text into words under a name of tokenizer.ggml.pre, and what else it takes that name to mean.
struct GgufPreTokenizer {
  std::vector<std::string_view> names;  ///< the first is written, all are read
  std::vector<PreTokenizerPart> parts;
  bool ignore_merges = false;  ///< a word that is in the vocabulary is not cut further
  bool adds_bos = false;       ///< unless tokenizer.ggml.add_bos_token says otherwise
};

/// Throw Error(input) that lists the known names, or says what of a tokenizer.json llama.cpp has no name for.
const GgufPreTokenizer& get_gguf_pre_tokenizer(const std::string& name, const std::string& where);
const GgufPreTokenizer& match_gguf_pre_tokenizer(const nlohmann::json& pre_tokenizer, bool ignore_merges, const std::string& where);

/// The "pre_tokenizer" of a tokenizer.json.
nlohmann::json make_pre_tokenizer(const GgufPreTokenizer& row);

}  // namespace llmc
