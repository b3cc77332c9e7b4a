// Any bytes as a file of texts, of questions or of ids give ids of the vocabulary, with their lengths, or an llmc::Error.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "calib/byte_alphabet.h"
#include "calib/choice_data.h"
#include "calib/token_data.h"
#include "formats/tokenizer_files.h"
#include "tests/fuzz/scratch.h"

namespace {

using namespace llmc;

/// Bytes, and what two merges make of them.
Tokenizer make_tokenizer() {
  nlohmann::json ids = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) ids[spell_bytes(std::string(1, static_cast<char>(byte)))] = byte;
  ids.update({{"th", 256}, {"the", 257}, {"<|endoftext|>", 258}});
  return Tokenizer::parse(make_byte_level_tokenizer(ids.dump(), "t h\nth e\n", nlohmann::json::object(), "fuzz").dump(), "fuzz");
}

void check_token_data(const std::string& name, const Tokenizer& tokenizer) {
  const TokenData data = load_token_data(fuzz::scratch() / name, {.tokenizer = &tokenizer}, tokenizer.vocabulary_size());
  for (const auto& sequence : data.sequences) fuzz::check_ids(sequence, tokenizer.vocabulary_size());
  if (data.byte_lengths.empty()) return;
  if (data.byte_lengths.size() != data.sequences.size()) std::abort();
  for (size_t i = 0; i < data.sequences.size(); ++i)
    if (data.byte_lengths[i].size() != data.sequences[i].size()) std::abort();
}

void check_choice_data(const std::string& name, const Tokenizer& tokenizer, std::optional<int32_t> begin) {
  const ChoiceData data = load_choice_data(fuzz::scratch() / name, {.tokenizer = tokenizer, .begin = begin, .vocabulary = tokenizer.vocabulary_size(), .context = 64});
  for (const Question& question : data.questions) {
    if (question.choices.size() < 2 || question.answer >= question.choices.size()) std::abort();
    for (const Choice& choice : question.choices) {
      fuzz::check_ids(choice.tokens, tokenizer.vocabulary_size());
      if (choice.first_scored < 1 || choice.first_scored >= std::ssize(choice.tokens) || std::ssize(choice.tokens) > 64 || choice.bytes < 0) std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer tokenizer = make_tokenizer();
  for (const char* name : {"x.jsonl", "x.txt", "x.u16", "x.u32"}) {
    fuzz::write(name, {reinterpret_cast<const char*>(data), size});
    fuzz::expect_no_bug([&] { check_token_data(name, tokenizer); });
  }
  fuzz::expect_no_bug([] { check_choice_data("x.jsonl", tokenizer, std::nullopt); });
  fuzz::expect_no_bug([] { check_choice_data("x.jsonl", tokenizer, 258); });
  return 0;
}
