// Owns the "normalizer" of a tokenizer.json: what is done to text before it is cut.
// Behaviour: https://github.com/huggingface/tokenizers/tree/main/tokenizers/src/normalizers
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

/// The characters are those of utf8proc's Unicode version (15 in utf8proc 2.8). Hugging Face tokenizers 0.23 normalizes by
/// Unicode 9, which differs for about 300 rare characters assigned since, mostly in the order of combining marks.
class TextNormalizer {
 public:
  /// Reads null, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace, Nmt, BertNormalizer, Precompiled,
  /// ByteLevel or a Sequence of these. Throws Error(input) naming any other type.
  static TextNormalizer parse(const nlohmann::json* normalizer, const std::string& where);

  /// Normalizes valid UTF-8. The result lies in `text` when nothing had to be done, otherwise in `storage`. Throws Error(input)
  /// when the text grows beyond all measure (Replace steps can multiply it).
  std::string_view apply(std::string_view text, std::string& storage) const;

 private:
  struct Step {
    std::function<std::string(std::string_view)> apply;
    bool keeps_ascii = false;  ///< nothing happens to ASCII
  };
  void add(const nlohmann::json& normalizer, const std::string& where);

  std::vector<Step> steps_;  ///< applied in order
};

}  // namespace llmc
