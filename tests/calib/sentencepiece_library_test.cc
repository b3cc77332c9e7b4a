// Tests that a tokenizer.model gives the ids of SentencePiece's own library, Debian's libsentencepiece.
#include <sentencepiece_processor.h>

#include <random>
#include <string>
#include <vector>

#include "calib/tokenizer.h"
#include "formats/sentencepiece_model.h"
#include "tests/calib/golden_tokenizers.h"
#include "tests/catch.h"

using namespace llmc;

namespace {

constexpr int drawn_texts = 2000;

/// Of pieces of all kinds: words, spaces, U+2581, letters that rules change, user-defined symbols of the models, and any character.
std::vector<std::string> make_texts(const sentencepiece::SentencePieceProcessor& library) {
  std::vector<std::string> parts = {" ", "  ", "\n", "\t", "\u00a0", "\u3000", "\u2581", "the", " of", "ing", "1234", ".,;", "\u00e9", "e\u0301", "\uff21\uff42", "\u2460", "\ufb01", "\u0436\u0438", "\u6f22\u5b57", "\u0f0b", "\U0001f600", "\u200d"};
  for (int id = 0; id < library.GetPieceSize(); id += 7)
    if (!library.IsControl(id) && !library.IsUnknown(id) && !library.IsByte(id)) parts.push_back(library.IdToPiece(id));
  std::mt19937_64 random(1);
  std::vector<std::string> texts;
  for (int i = 0; i < drawn_texts; ++i) {
    std::string text;
    for (uint64_t count = random() % 40; count > 0; --count) text += parts[random() % parts.size()];
    texts.push_back(std::move(text));
  }
  const nlohmann::json stored = read_json(golden / "texts.json");
  for (const auto& text : stored.at("texts")) texts.push_back(text.get<std::string>());
  return texts;
}

/// llmc finds control pieces in texts, as transformers does; SentencePiece does not.
bool has_control_piece(const std::string& text) {
  for (const char* piece : {"<unk>", "<s>", "</s>"})
    if (text.find(piece) != std::string::npos) return true;
  return false;
}

/// Whether neighbours could change places, as "a" and "aa": cuts of the same score, among which this version (0.1.97) chooses in double precision
/// and 0.2, which llmc follows, in single.
bool has_tie(const std::vector<std::string>& pieces) {
  for (size_t i = 1; i < pieces.size(); ++i)
    if (pieces[i - 1] != pieces[i] && pieces[i - 1] + pieces[i] == pieces[i] + pieces[i - 1]) return true;
  return false;
}

}  // namespace

TEST_CASE("tokenizer.model: ids are those of libsentencepiece") {
  // Not sentencepiece-symbols: this version gives user-defined pieces of unigram models other scores than 0.2.
  for (const char* name : {"sentencepiece-bpe", "sentencepiece-bpe-symbols", "sentencepiece-characters", "sentencepiece-unigram"}) {
    INFO(name);
    const std::string file = read_text_file(golden / name / "tokenizer.model");
    sentencepiece::SentencePieceProcessor library;
    REQUIRE(library.LoadFromSerializedProto(file).ok());
    const Tokenizer tokenizer = Tokenizer::parse(SentencePieceModel::parse(file, name).make_tokenizer(std::nullopt, name).dump(), name);
    size_t compared = 0;
    for (const std::string& text : make_texts(library)) {
      if (has_control_piece(text) || has_tie(library.EncodeAsPieces(text))) continue;
      INFO(text);
      Ids expected;
      for (int id : library.EncodeAsIds(text)) expected.push_back(id);
      REQUIRE(tokenizer.encode(text, SpecialTokens::omit) == expected);
      ++compared;
    }
    CHECK(compared > drawn_texts / 2);
  }
}
