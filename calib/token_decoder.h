// Owns the "decoder" of a tokenizer.json: from the names of tokens back to text.
// Behaviour: https://github.com/huggingface/tokenizers/tree/main/tokenizers/src/decoders
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

class TokenDecoder {
 public:
  /// Reads ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, WordPiece, BPEDecoder, CTC or a Sequence of these. Null
  /// means ByteLevel for a byte-level vocabulary, where Hugging Face would put spaces between tokens, and such spaces for
  /// others. Throws Error(input) naming any other type.
  static TokenDecoder parse(const nlohmann::json* decoder, bool is_byte_level, const std::string& where);

  /// Text from the names of all tokens; what is not UTF-8 becomes U+FFFD. Throws Error(input) when steps make it grow beyond measure
  /// (text_growth.h), as count_bytes does.
  std::string decode(std::vector<std::string> tokens) const;
  /// Bytes of text that one token within a text stands for, as far as that can be said of one: the space between words, which
  /// a WordPiece decoder writes, counts with the word after it; what depends on a token's place (Strip after Fuse) is left out.
  size_t count_bytes(std::string_view token) const;

 private:
  using Tokens = std::vector<std::string>;
  struct Step {
    std::function<Tokens(Tokens)> decode;
    std::function<std::string(std::string)> decode_one;  ///< for count_bytes; none: nothing changes
  };
  void add(const nlohmann::json& decoder, const std::string& where);
  void add_each(std::function<std::string(std::string)> decode_one);

  std::vector<Step> steps_;  ///< applied in order
};

}  // namespace llmc
