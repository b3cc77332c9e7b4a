// Owns the "decoder" of a tokenizer.json: from the names of tokens back to text.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace llmc {

/// Decodes byte-level vocabularies, the only ones that are read today.
class TokenDecoder {
 public:
  /// Reads ByteLevel, or a Sequence of just that; null is taken for ByteLevel too, where Hugging Face would put spaces
  /// between tokens. Throws Error(input) naming any other type.
  static TokenDecoder parse(const nlohmann::json* decoder, const std::string& where);

  /// The bytes of one token, which need not be whole characters. A token with a character that is outside of the byte
  /// alphabet stands for itself, as in Hugging Face tokenizers.
  std::string bytes_of(std::string_view token) const;
  /// Text from the bytes of all tokens; what is not UTF-8 becomes U+FFFD.
  std::string finish(std::string_view bytes) const;
};

}  // namespace llmc
