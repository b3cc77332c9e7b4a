// GPT-2's vocab.json and merges.txt against the tokenizer.json that says the same.
#include "formats/tokenizer_files.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "calib/tokenizer.h"
#include "core/mapped_file.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

const char* const vocabulary = R"({"a": 0, "b": 1, "Ġ": 2, "c": 3, "ab": 4, "Ġab": 5, "abc": 6, "<|endoftext|>": 7, "</s>": 8, "<pad>": 9, "Ċ": 10})";
const char* const merges = "#version: 0.2\na b\nĠ ab\r\nab c\n\n";

Tokenizer make(const json& config = json::object(), const std::string& vocabulary_text = vocabulary, const std::string& merges_text = merges) { return Tokenizer::parse(make_byte_level_tokenizer(vocabulary_text, merges_text, config, "m").dump(), "m"); }

using Ids = std::vector<int32_t>;

}  // namespace

TEST_CASE("GPT-2's two files cut texts as their merges say") {
  const Tokenizer tokenizer = make();
  CHECK(tokenizer.encode("abc ab\nc", SpecialTokens::add) == Ids{6, 5, 10, 3});
  CHECK(tokenizer.encode("ab<|endoftext|>b", SpecialTokens::add) == Ids{4, 7, 1});
  CHECK(tokenizer.decode(Ids{6, 5, 10, 3}) == "abc ab\nc");
  CHECK(make({{"add_prefix_space", true}}).encode("ab", SpecialTokens::add) == Ids{5});
  const Tokenizer opt = make({{"bos_token", {{"content", "</s>"}, {"lstrip", false}}}, {"eos_token", "</s>"}, {"unk_token", "</s>"}, {"pad_token", "<pad>"}, {"add_bos_token", true}});
  CHECK(opt.first_token() == 8);
  CHECK(opt.encode("ab<pad>", SpecialTokens::add) == Ids{8, 4, 9});
}

TEST_CASE("Damaged files of GPT-2's kind are refused by name") {
  CHECK_THROWS_WITH(make({}, "[]"), Contains("m/vocab.json") && Contains("ids by token"));
  CHECK_THROWS_WITH(make({}, R"({"a": 0})"), Contains("m/vocab.json") && Contains("<|endoftext|>"));
  CHECK_THROWS_WITH(make({}, R"({"a": 0, "a": 1})"), Contains("m/vocab.json"));
  CHECK_THROWS_WITH(make({{"bos_token", 5}}), Contains("m/tokenizer_config.json") && Contains("bos_token"));
  CHECK_THROWS_WITH(make({{"add_bos_token", "yes"}}), Contains("add_bos_token"));
  CHECK_THROWS_WITH(make({{"pad_token", "[PAD]"}}), Contains("[PAD]"));
  CHECK_THROWS_WITH(make({}, vocabulary, "#version: 0.2\na \xE2z\n"), Contains("m/merges.txt: line 2: a token of the merge is not in vocab.json"));
  for (const char* line : {"ab", "a b c", " b", "a "}) CHECK_THROWS_WITH(make({}, vocabulary, std::string("#version: 0.2\na b\n") + line + "\n"), Contains("m/merges.txt: line 3"));
  CHECK_THROWS_WITH(make({}, vocabulary, "a x\n"), Contains("x"));  // no such token
  CHECK_THROWS_WITH(make({}, R"({"a": "b", "<|endoftext|>": 7})", ""), Contains("m"));
}

TEST_CASE("tokenizer_config.json says how texts of a tokenizer.model begin and end") {
  test::TemporaryDirectory directory;
  const auto write = [&](const char* name, const std::string& text) { std::ofstream(directory.path() / name, std::ios::binary) << text; };
  Checkpoint checkpoint;
  checkpoint.directory = directory.path();
  write("tokenizer.model", read_text_file(std::filesystem::path(LLMC_SOURCE_DIR) / "tests/golden/tokenizer/sentencepiece-bpe/tokenizer.model"));
  const auto ends = [&](const char* config) {
    write("tokenizer_config.json", config);
    return Tokenizer::parse(*find_tokenizer(checkpoint), "m").encode("", SpecialTokens::add);
  };
  CHECK(ends("{}") == Ids{1});
  CHECK(ends(R"({"add_bos_token": false})") == Ids{});
  CHECK(ends(R"({"add_eos_token": true})") == Ids{1, 2});
  CHECK(ends(R"({"add_bos_token": false, "add_eos_token": true, "eos_token": {"content": "<unk>"}})") == Ids{0});
  CHECK(ends(R"({"bos_token": "</s>"})") == Ids{2});
  CHECK_THROWS_WITH(ends(R"({"bos_token": "[BOS]"})"), Contains("tokenizer_config.json: bos_token: ") && Contains("tokenizer.model has no piece \"[BOS]\""));
  CHECK_THROWS_WITH(ends(R"({"add_eos_token": "yes"})"), Contains("add_eos_token: expected true or false"));
}

TEST_CASE("A checkpoint's tokenizer is found among its files") {
  test::TemporaryDirectory directory;
  const auto write = [&](const char* name, const std::string& text) { std::ofstream(directory.path() / name) << text; };
  Checkpoint checkpoint;
  checkpoint.directory = directory.path();
  checkpoint.config = {{"model_type", "gpt2"}};
  CHECK_FALSE(find_tokenizer(checkpoint));
  write("vocab.json", vocabulary);
  CHECK_FALSE(find_tokenizer(checkpoint));
  write("merges.txt", merges);
  REQUIRE(find_tokenizer(checkpoint));
  CHECK(Tokenizer::parse(*find_tokenizer(checkpoint), "m").encode(" ab", SpecialTokens::add) == Ids{5});
  checkpoint.config = {{"model_type", "opt"}};
  CHECK_FALSE(find_tokenizer(checkpoint));  // nothing says what they are
  write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  CHECK(find_tokenizer(checkpoint));
  write("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  CHECK_FALSE(find_tokenizer(checkpoint));  // other words
  write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  write("added_tokens.json", "{}");
  CHECK_THROWS_WITH(find_tokenizer(checkpoint), Contains("added_tokens.json"));
  write("tokenizer.json", "{}");
  CHECK(find_tokenizer(checkpoint) == "{}");  // before all others
}
