// Files of questions: what becomes of a line, and what is refused.
#include "calib/choice_data.h"

#include <fstream>

#include "core/mapped_file.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

struct File {
  ChoiceData read(const std::string& lines, std::optional<int32_t> begin = std::nullopt, int64_t context = 64) {
    std::ofstream(directory.path() / "q.jsonl") << lines;
    return load_choice_data(directory.path() / "q.jsonl", {.tokenizer = tokenizer, .begin = begin, .vocabulary = tokenizer.vocabulary_size(), .context = context});
  }

  test::TemporaryDirectory directory;
  const Tokenizer tokenizer = Tokenizer::parse(read_text_file(std::filesystem::path(LLMC_SOURCE_DIR) / "sample_models/quill-7m/tokenizer.json"), "t");
};

}  // namespace

TEST_CASE("Questions: pairs of sentences, and choices behind a context") {
  File file;
  const ChoiceData data = file.read("{\"sentence_good\": \"They walk.\", \"sentence_bad\": \"They walks.\", \"UID\": \"x\"}\n\n{\"context\": \"One and one is\", \"choices\": [\" three\", \" two\", \"n't\"], \"answer\": 1}\n");
  REQUIRE(data.questions.size() == 2);
  CHECK_FALSE(data.starts_with_bos);
  const Question &pair = data.questions[0], &asked = data.questions[1];
  CHECK(pair.answer == 0);
  REQUIRE(pair.choices.size() == 2);
  CHECK(pair.choices[0].tokens == file.tokenizer.encode("They walk.", SpecialTokens::omit));
  CHECK(pair.choices[0].first_scored == 1);  // nothing predicts the first
  CHECK(pair.choices[1].bytes == 11);
  CHECK(asked.answer == 1);
  REQUIRE(asked.choices.size() == 3);
  const auto context = file.tokenizer.encode("One and one is", SpecialTokens::omit);
  CHECK(asked.choices[1].tokens == file.tokenizer.encode("One and one is two", SpecialTokens::omit));
  CHECK(asked.choices[1].first_scored == static_cast<int64_t>(context.size()));
  CHECK(asked.choices[1].bytes == 4);
  CHECK(asked.choices[2].first_scored <= static_cast<int64_t>(context.size()));  // " isn" may be one token

  const ChoiceData begun = file.read("{\"sentence_good\": \"They walk.\", \"sentence_bad\": \"They walks.\"}", 7);
  CHECK(begun.starts_with_bos);
  CHECK(begun.questions[0].choices[0].tokens.front() == 7);
  CHECK(begun.questions[0].choices[0].first_scored == 1);
  CHECK(begun.questions[0].choices[0].tokens.size() == pair.choices[0].tokens.size() + 1);
}

TEST_CASE("Questions that cannot be judged are refused with their line") {
  File file;
  const std::string good = "{\"sentence_good\": \"They walk.\", \"sentence_bad\": \"They walks.\"}\n";
  CHECK_THROWS_WITH(file.read(""), Contains("holds no questions"));
  CHECK_THROWS_WITH(file.read(good + "{\"sentence_good\": \"They walk.\"}"), Contains("q.jsonl:2") && Contains("sentence_bad"));
  CHECK_THROWS_WITH(file.read(good + "{\"text\": \"They walk.\"}"), Contains("q.jsonl:2") && Contains("at least two choices"));
  CHECK_THROWS_WITH(file.read("{\"choices\": [\"a b\"], \"answer\": 0}"), Contains("at least two choices"));
  CHECK_THROWS_WITH(file.read("{\"sentence_good\": \"They walk.\", \"sentence_bad\": \"They walks.\", \"choices\": [\"a b\", \"c d\"], \"answer\": 0}"), Contains("q.jsonl:1") && Contains("found both"));
  CHECK_THROWS_WITH(file.read("{\"choices\": [\"a b\", \"c d\"]}"), Contains("answer"));
  CHECK_THROWS_WITH(file.read("{\"choices\": [\"a b\", \"c d\"], \"answer\": 2}"), Contains("expected 0 to 1, found 2"));
  CHECK_THROWS_WITH(file.read("{\"context\": \"a b\", \"choices\": [\" c\", \"\"], \"answer\": 0}"), Contains("leaves no token to score"));
  CHECK_THROWS_WITH(file.read(good, std::nullopt, 3), Contains("more than the model's context of 3"));
  CHECK_THROWS_WITH(file.read("not json"), Contains("q.jsonl:1"));
}
