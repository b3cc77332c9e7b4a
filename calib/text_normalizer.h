// Owns the "normalizer" of a tokenizer.json: Unicode normal forms and lower case.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

/// The characters are those of utf8proc's Unicode version (15 in utf8proc 2.8). Hugging Face tokenizers 0.23 normalizes by
/// Unicode 9, which differs for about 300 rare characters assigned since, mostly in the order of combining marks.
class TextNormalizer {
 public:
  /// Reads null, NFC, NFD, NFKC, NFKD, Lowercase or a Sequence of these. Throws Error(input) naming any other type.
  static TextNormalizer parse(const nlohmann::json* normalizer, const std::string& where);

  /// Normalizes valid UTF-8. The result lies in `text` when nothing had to be done, otherwise in `storage`.
  std::string_view apply(std::string_view text, std::string& storage) const;

 private:
  enum class Form { nfc, nfd, nfkc, nfkd, lowercase };
  void add(const nlohmann::json& normalizer, const std::string& where);
  static std::string normalize(std::string_view text, Form form);

  std::vector<Form> forms_;  ///< applied in order
};

}  // namespace llmc
