// Fuzzes reading a tokenizer.json, a tokenizer.model, or a merges.txt with a NUL and a vocab.json behind it, and encoding text with what was read: only llmc::Error may come out.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "calib/tokenizer.h"
#include "core/error.h"
#include "formats/sentencepiece_model.h"
#include "formats/tokenizer_files.h"

namespace {

llmc::Tokenizer read(std::string_view bytes) {
  if (bytes.starts_with('{')) return llmc::Tokenizer::parse(bytes, "tokenizer.json");
  if (bytes.starts_with("#version")) {
    const size_t end = std::min(bytes.find('\0'), bytes.size());
    return llmc::Tokenizer::parse(llmc::make_byte_level_tokenizer(bytes.substr(std::min(end + 1, bytes.size())), bytes.substr(0, end), nlohmann::json::object(), "model").dump(), "model");
  }
  return llmc::Tokenizer::parse(llmc::SentencePieceModel::parse(bytes, "tokenizer.model").make_tokenizer("<s>", "tokenizer.model").dump(), "tokenizer.model");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const llmc::Tokenizer tokenizer = read(bytes);
    for (const std::string_view text : {std::string_view("It's  a naïve\u3000<s> 東京 e\u0301 12½\n\n"), bytes.substr(0, 256)}) {
      try {
        const auto ids = tokenizer.encode(text, llmc::SpecialTokens::add);
        tokenizer.decode(ids);
        tokenizer.byte_lengths(ids);
        for (int32_t id : ids)
          if (id < 0 || id >= tokenizer.vocabulary_size()) __builtin_trap();
      } catch (const llmc::Error&) {
      }
    }
  } catch (const llmc::Error&) {
  }
  return 0;
}
