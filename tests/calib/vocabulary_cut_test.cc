#include "calib/vocabulary_cut.h"

#include <fstream>

#include "calib/tokenizer.h"
#include "core/mapped_file.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace llmc {
namespace {

using nlohmann::json;

const std::filesystem::path quill_folder = std::filesystem::path(LLMC_SOURCE_DIR) / "sample_models/quill-7m";

void put_text(const std::filesystem::path& path, const std::string& text) { std::ofstream(path) << text; }

}  // namespace

TEST_CASE("What a token is merged from stays, with added tokens and single bytes", "[vocabulary]") {
  const json tokenizer = {{"model", {{"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"abc", 4}, {"bc", 5}, {"no", 6}, {"ca", 7}}}, {"merges", json::array({"a b", json::array({"ab", "c"}), "b c", "c a"})}}}, {"added_tokens", json::array({{{"id", 9}, {"content", "<s>"}}})}};
  CHECK(close_over_merges(tokenizer, {4}) == std::set<int32_t>{0, 1, 2, 3, 4, 9});
  CHECK(close_over_merges(tokenizer, {5, 6}) == std::set<int32_t>{0, 1, 2, 5, 6, 9});
}

TEST_CASE("Texts that a vocabulary was cut for are cut into the same tokens, and others can still be written", "[vocabulary]") {
  const test::TemporaryDirectory directory;
  const std::string text = "Mary had a little lamb; its fleece was white as snow. Élan vital, naïveté!\n\n  Twice.";
  put_text(directory.path() / "texts.txt", text);
  const std::string before_text = read_text_file(quill_folder / "tokenizer.json");
  const json config = json::parse(read_text_file(quill_folder / "config.json"));
  const VocabularyCut cut = cut_vocabulary(quill_folder, config, 4096, {(directory.path() / "texts.txt").string()});
  const Tokenizer before = Tokenizer::parse(before_text, "before"), after = Tokenizer::parse(cut.files.at("tokenizer.json"), "after");
  CHECK(after.vocabulary_size() == static_cast<int64_t>(cut.kept.size()));
  CHECK(cut.kept.size() < 1000);
  const auto ids = after.encode(text, SpecialTokens::omit);
  std::vector<int32_t> in_source;
  for (int32_t id : ids) in_source.push_back(static_cast<int32_t>(cut.kept[static_cast<size_t>(id)]));
  CHECK(in_source == before.encode(text, SpecialTokens::omit));
  const std::string other = "Quantum chromodynamics: 你好, 42 <|endoftext|>";
  CHECK(after.decode(after.encode(other, SpecialTokens::omit)) == other);
  CHECK(after.encode(other, SpecialTokens::omit).size() > before.encode(other, SpecialTokens::omit).size());
}

TEST_CASE("Ids in every file beside the weights follow their tokens", "[vocabulary]") {
  const test::TemporaryDirectory directory;
  for (const char* name : {"config.json", "tokenizer.json"}) std::filesystem::copy_file(quill_folder / name, directory.path() / name);
  json config = json::parse(read_text_file(quill_folder / "config.json"));
  config["eos_token_id"] = json::array({0, 4000, 999999});
  config["suppress_tokens"] = json::array({300});
  const json vocabulary = json::parse(read_text_file(quill_folder / "tokenizer.json")).at("model").at("vocab");
  std::string name_of_4000;
  for (const auto& [token, id] : vocabulary.items())
    if (id == 4000) name_of_4000 = token;
  put_text(directory.path() / "tokenizer_config.json", R"({"added_tokens_decoder": {"0": {"content": "<|endoftext|>"}}, "model_max_length": 4})");
  put_text(directory.path() / "vocab.json", vocabulary.dump());
  put_text(directory.path() / "merges.txt", "#version: 0.2\n");
  put_text(directory.path() / "added_tokens.json", R"({"<|endoftext|>": 0})");
  put_text(directory.path() / "texts.txt", "a");
  const VocabularyCut cut = cut_vocabulary(directory.path(), config, 4096, {(directory.path() / "texts.txt").string()});
  const json kept = json::parse(cut.files.at("tokenizer.json")).at("model").at("vocab");
  CHECK(cut.config.at("eos_token_id") == json::array({0, kept.at(name_of_4000), 999999}));  // what names no token stays as it is
  CHECK(cut.kept.at(cut.config.at("suppress_tokens").at(0).get<size_t>()) == 300);
  CHECK(json::parse(cut.files.at("vocab.json")) == kept);
  CHECK(json::parse(cut.files.at("tokenizer_config.json")).at("added_tokens_decoder").contains("0"));
  CHECK(json::parse(cut.files.at("added_tokens.json")).at("<|endoftext|>") == 0);
  CHECK(cut.files.at("merges.txt").starts_with("#version: 0.2\n"));
  for (const char* odd : {"[0]", "5", R"({"a": "b"})", R"({"a": 1.5})"}) {
    put_text(directory.path() / "added_tokens.json", odd);
    CHECK_THROWS_WITH(cut_vocabulary(directory.path(), config, 4096, {(directory.path() / "texts.txt").string()}), Catch::Matchers::Contains("added_tokens.json: expected an object of ids by token"));
  }
  std::filesystem::remove(directory.path() / "added_tokens.json");
  json renumbered = json::parse(read_text_file(quill_folder / "tokenizer.json"));
  renumbered["added_tokens"][0]["id"] = 7;
  put_text(directory.path() / "tokenizer.json", renumbered.dump());
  CHECK_THROWS_WITH(cut_vocabulary(directory.path(), config, 4096, {(directory.path() / "texts.txt").string()}), Catch::Matchers::Contains("added token \"<|endoftext|>\" does not get the id 7 that the file says"));
  put_text(directory.path() / "tokenizer.model", "");
  CHECK_THROWS_WITH(cut_vocabulary(directory.path(), config, 4096, {}), Catch::Matchers::Contains("tokenizer.model: cannot be rewritten"));
}

}  // namespace llmc
