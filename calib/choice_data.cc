#include "calib/choice_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "calib/json_lines.h"
#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"

namespace llmc {
namespace {

Choice read_choice(const std::string& context, const std::string& text, const ChoiceReading& reading, const std::string& where) {
  Choice choice{.tokens = reading.tokenizer.encode(context + text, SpecialTokens::omit), .bytes = static_cast<int64_t>(text.size())};
  const std::vector<int32_t> before = context.empty() ? std::vector<int32_t>() : reading.tokenizer.encode(context, SpecialTokens::omit);
  const auto shared = std::ranges::mismatch(before, choice.tokens).in1 - before.begin();
  if (reading.begin) choice.tokens.insert(choice.tokens.begin(), *reading.begin);
  choice.first_scored = std::max<int64_t>(1, shared + (reading.begin ? 1 : 0));
  const auto size = static_cast<int64_t>(choice.tokens.size());
  if (size <= choice.first_scored) throw Error(ErrorKind::input, fmt::format("{}: \"{}\" leaves no token to score", where, text));
  if (size > reading.context) throw Error(ErrorKind::input, fmt::format("{}: {} tokens are more than the model's context of {}", where, size, reading.context));
  for (const int32_t id : choice.tokens)
    if (id >= reading.vocabulary) throw Error(ErrorKind::input, fmt::format("{}: token id {} is outside the vocabulary of {}", where, id, reading.vocabulary));
  return choice;
}

Question read_question(const nlohmann::json& object, const ChoiceReading& reading, const std::string& where) {
  FieldReader fields(object, where);
  std::vector<std::string> texts;
  size_t answer = 0;
  if (fields.find("sentence_good") || fields.find("sentence_bad")) {
    if (fields.find("choices")) throw Error(ErrorKind::input, fmt::format("{}: expected sentence_good and sentence_bad, or choices, found both", where));
    texts = {fields.get_string("sentence_good"), fields.get_string("sentence_bad")};
  } else {
    texts = fields.find_strings("choices");
    if (texts.size() < 2) throw Error(ErrorKind::input, fmt::format("{}: expected sentence_good and sentence_bad, or at least two choices", where));
    const int64_t number = fields.get_int("answer");
    if (number < 0 || number >= static_cast<int64_t>(texts.size())) throw Error(ErrorKind::input, fmt::format("{}: answer: expected 0 to {}, found {}", where, texts.size() - 1, number));
    answer = static_cast<size_t>(number);
  }
  const std::string context = fields.find_string("context").value_or("");
  Question question{.answer = answer};
  for (const std::string& text : texts) question.choices.push_back(read_choice(context, text, reading, where));
  return question;
}

}  // namespace

ChoiceData load_choice_data(const std::filesystem::path& path, const ChoiceReading& reading) {
  const MappedFile file(path);
  ChoiceData data{.name = path.string(), .questions = {}, .starts_with_bos = reading.begin.has_value()};
  for_each_json_line(file.text(), data.name, [&](const nlohmann::json& object, const std::string& where) { data.questions.push_back(read_question(object, reading, where)); });
  if (data.questions.empty()) throw Error(ErrorKind::input, fmt::format("{}: holds no questions", data.name));
  return data;
}

}  // namespace llmc
