// Owns questions with several answers, of which a model is to find one the likeliest: files of them, as tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "calib/tokenizer.h"

namespace llmc {

/// One answer, behind what is asked.
struct Choice {
  std::vector<int32_t> tokens;
  int64_t first_scored = 1;  ///< position of the first token that is the answer's
  int64_t bytes = 0;         ///< of the answer's text
};

struct Question {
  std::vector<Choice> choices;  ///< at least 2
  size_t answer = 0;            ///< the right one
};

struct ChoiceData {
  std::string name;
  std::vector<Question> questions;
  bool starts_with_bos = false;  ///< every choice
};

struct ChoiceReading {
  const Tokenizer& tokenizer;
  std::optional<int32_t> begin;  ///< put before every text; none: a text's first token is not scored
  int64_t vocabulary = 0;
  int64_t context = 0;
};

/// Reads a JSON object a line: a pair of sentences, of which the first is the acceptable one, as BLiMP has them (Warstadt 2020:
/// `sentence_good`, `sentence_bad`), or `choices`, a list of texts, with `answer`, the number of the right one from 0, and
/// `context`, which comes before each and is not scored. Other fields are not looked at. A token that spans context and choice
/// is the choice's. Throws Error(input) with file and line.
ChoiceData load_choice_data(const std::filesystem::path& path, const ChoiceReading& reading);

}  // namespace llmc
