// Tokenizers go into the keys of a GGUF file and come back, or are refused for what llama.cpp would make of them.
#include "formats/gguf_tokenizer.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/mapped_file.h"
#include "formats/gguf_sentencepiece.h"
#include "tests/calib/golden_tokenizers.h"
#include "tests/calib/small_tokenizer.h"

using namespace llmc;
using nlohmann::json;

namespace {

int64_t vocabulary_of(const json& tokenizer) {
  int64_t most = -1;
  for (const auto& [text, id] : tokenizer.at("model").at("vocab").items()) most = std::max(most, id.get<int64_t>());
  for (const json& token : tokenizer.at("added_tokens")) most = std::max(most, token.at("id").get<int64_t>());
  return most + 1;
}

/// A directory that has these small files and nothing else.
Checkpoint checkpoint_of(std::map<std::string, std::string> files, json config = json::object()) {
  Checkpoint checkpoint;
  checkpoint.directory = "d";
  checkpoint.config = std::move(config);
  checkpoint.rewritten_files = std::move(files);
  return checkpoint;
}

GgufMetadata write(const json& tokenizer, int64_t vocabulary) {
  GgufMetadata metadata("a.gguf");
  add_gguf_tokenizer(metadata, checkpoint_of({{"tokenizer.json", tokenizer.dump()}}), vocabulary);
  return metadata;
}
json read_back(const GgufMetadata& metadata) { return json::parse(find_gguf_tokenizer_file(metadata, "tokenizer.json").value()); }

/// Merges as SentencePiece's rules have them: every pair that makes a token, in the order of the tokens' first merges.
json completed(json tokenizer) {
  SentencePieceModel model;
  model.kind = SentencePieceModel::Kind::bpe;
  model.falls_back_to_bytes = true;
  std::map<int64_t, std::string> texts;
  for (const auto& [text, id] : tokenizer["model"]["vocab"].items()) texts[id.get<int64_t>()] = text;
  std::map<std::string, double> scores;
  for (const json& merge : tokenizer["model"]["merges"]) scores.emplace(merge[0].get<std::string>() + merge[1].get<std::string>(), -1.0 - static_cast<double>(scores.size()));
  for (const auto& [id, text] : texts) model.pieces.push_back({.text = text, .score = scores.contains(text) ? scores.at(text) : -1e6, .type = text.starts_with("<") && text.size() > 1 ? PieceType::byte : PieceType::normal});
  tokenizer["model"]["merges"] = model.make_tokenizer(std::nullopt, "t")["model"]["merges"];
  return tokenizer;
}

void check_same_ids(const json& before, const json& after, const std::function<bool(const std::string&)>& is_meant) {
  const Tokenizer expected = read_tokenizer(before), found = read_tokenizer(after);
  const json texts = read_json(golden / "texts.json").at("texts");
  for (const std::string text : texts) {
    if (!is_meant(text)) continue;
    INFO(text);
    std::optional<Ids> ids;
    try {
      ids = expected.encode(text, SpecialTokens::add);
    } catch (const Error&) {
      continue;  // what a vocabulary without bytes cannot write
    }
    CHECK(found.encode(text, SpecialTokens::add) == *ids);
  }
}

bool is_any(const std::string&) { return true; }
bool starts_with_letter(const std::string& text) { return !text.empty() && std::isalpha(static_cast<unsigned char>(text[0])) && text.find("<s>") == std::string::npos; }

}  // namespace

TEST_CASE("gguf tokenizer: byte-level BPE of every family comes back with the same ids") {
  const struct {
    const char* folder;
    const char* pre;
    bool ignores_merges = false;
  } cases[] = {{"llama3", "llama-bpe"}, {"qwen2", "qwen2"}, {"starcoder", "smollm"}, {"deepseek", "deepseek-v3"}, {"falcon", "falcon"}, {"tekken", "tekken", true}};
  for (const auto& c : cases) {
    INFO(c.folder);
    json tokenizer = read_json(golden / c.folder / "tokenizer.json");
    if (c.ignores_merges) tokenizer["model"]["ignore_merges"] = true;
    const GgufMetadata metadata = write(tokenizer, vocabulary_of(tokenizer));
    CHECK(metadata.get_string("tokenizer.ggml.model") == "gpt2");
    CHECK(metadata.get_string("tokenizer.ggml.pre") == c.pre);
    tokenizer["normalizer"] = nullptr;  // of which the file does not speak, as llama.cpp does not normalize
    check_same_ids(tokenizer, read_back(metadata), is_any);
  }
}

TEST_CASE("gguf tokenizer: every name of a pre-tokenizer reads, and is written under its family's first name") {
  json tokenizer = small_tokenizer();
  const GgufMetadata metadata = write(tokenizer, 260);
  for (const char* name : {"gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "qwen35", "minicpm5", "tekken", "gpt-4o", "deepseek-v3", "deepseek-coder", "falcon", "bloom", "viking"}) {
    INFO(name);
    GgufMetadata named = metadata;
    named.set("tokenizer.ggml.pre", gguf_string(name));
    named.set("tokenizer.ggml.add_bos_token", gguf_bool(false));
    const json read = read_back(named);
    const Tokenizer reader = read_tokenizer(read);
    CHECK(reader.decode(reader.encode("It's 12345 \xE4\xB8\xAD\xE6\x96\x87, don't!\n\n  end", SpecialTokens::add)) == "It's 12345 \xE4\xB8\xAD\xE6\x96\x87, don't!\n\n  end");
    CHECK(write(read, 260).get_string("tokenizer.ggml.pre") == name);
  }
  tokenizer["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"Regex", "x+"}}}, {"behavior", "Isolated"}, {"invert", false}}, tokenizer["pre_tokenizer"]}}};
  check_contains(message_of([&] { write(tokenizer, 260); }), "llama.cpp has no name for it that llmc knows");
  tokenizer["pre_tokenizer"] = {{"type", "Whitespace"}};
  check_contains(message_of([&] { write(tokenizer, 260); }), "Whitespace");
}

TEST_CASE("gguf tokenizer: SentencePiece from a tokenizer.json gets scores by its merges") {
  for (const char* folder : {"llama2", "mistral", "gemma"}) {
    INFO(folder);
    const json original = read_json(golden / folder / "tokenizer.json");
    const int64_t vocabulary = vocabulary_of(original) + 3;
    check_contains(message_of([&] { write(original, vocabulary); }), "ways to make it of two others are merges; llama.cpp takes all");
    const json tokenizer = completed(original);
    const GgufMetadata metadata = write(tokenizer, vocabulary);
    CHECK(metadata.get_string("tokenizer.ggml.model") == "llama");
    CHECK(metadata.get_string("tokenizer.ggml.pre") == "default");
    CHECK(metadata.find_bool("tokenizer.ggml.add_space_prefix") == (std::string(folder) != "gemma"));
    CHECK(metadata.find_bool("tokenizer.ggml.add_bos_token") == true);
    CHECK(metadata.find_int("tokenizer.ggml.bos_token_id") == 1);
    CHECK(metadata.find_int("tokenizer.ggml.unknown_token_id") == 0);
    const auto types = metadata.find_ints("tokenizer.ggml.token_type").value();
    CHECK(types[0] == 2);
    CHECK(types[1] == 3);
    CHECK(std::ranges::count(types, 6) == 256);
    CHECK(types.back() == 5);
    CHECK(metadata.find_strings("tokenizer.ggml.tokens")->back() == "[PAD" + std::to_string(vocabulary - 1) + "]");
    // Metaspace puts no space in front of one that is there, nor behind a special token; llama.cpp always does.
    check_same_ids(tokenizer, read_back(metadata), std::string(folder) == "mistral" ? starts_with_letter : is_any);
    CHECK(write(read_back(metadata), vocabulary).find("tokenizer.ggml.scores")->value == metadata.find("tokenizer.ggml.scores")->value);
  }
}

TEST_CASE("gguf tokenizer: what llama.cpp makes otherwise of SentencePiece is refused with the part") {
  const json good = completed(read_json(golden / "llama2" / "tokenizer.json"));
  const int64_t vocabulary = vocabulary_of(good);
  const struct {
    std::function<void(json&)> change;
    const char* message;
  } cases[] = {
      {[](json& t) { t["normalizer"] = nullptr; }, "normalizer: does not replace spaces, but llama.cpp does"},
      {[](json& t) { t["normalizer"]["normalizers"].push_back({{"type", "NFKC"}}); }, "normalizer {\"type\":\"NFKC\"}: llama.cpp does not have it"},
      {[](json& t) { t["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}, {"split", true}}; }, "pre_tokenizer {\"prepend_scheme\":\"always\""},
      {[](json& t) { t["model"]["ignore_merges"] = true; }, "ignore_merges: llama.cpp does not have it"},
      {[](json& t) { t["model"]["vocab"].erase("<0x41>"); }, "lacks <0x41>; llama.cpp needs all 256 bytes"},
      {[](json& t) { t["model"]["merges"].erase(t["model"]["merges"].size() - 1); }, "are merges; llama.cpp takes all"},
      {[](json& t) { t["model"]["merges"].push_back({"q", "qqq"}); }, "\"q\" and \"qqq\" make no token"},
      {[](json& t) { t["model"]["merges"].push_back(t["model"]["merges"][0]); }, "llama.cpp"},
      {[](json& t) { std::swap(t["model"]["merges"].front(), t["model"]["merges"].back()); t["model"]["merges"].push_back(t["model"]["merges"].back()); }, "llama.cpp"},
      {[](json& t) { t["model"]["merges"][0] = 7; }, "model: merges: expected"},
      {[](json& t) { t["model"]["type"] = "Unigram"; }, "model type \"Unigram\" cannot be written as GGUF"},
      {[](json& t) { t["post_processor"] = {{"type", "BertProcessing"}}; }, "post_processor"},
      {[](json& t) { t["added_tokens"].push_back({{"content", "<new>"}, {"id", t["model"]["vocab"].size() + 1}}); }, "added token \"<new>\" has id "},
      {[](json& t) { t["added_tokens"].push_back({{"content", "<0x41>"}, {"id", 0}}); }, "added token \"<0x41>\" has id 0, but is read as "},
      {[](json& t) { t["added_tokens"].push_back({{"content", "<0x41>"}, {"id", t["model"]["vocab"]["<0x41>"] = INT64_MAX}}); }, "token \"<0x41>\" has id 9223372036854775807, but the model has "},
      {[](json& t) { t["model"]["vocab"]["<0x41>"] = t["model"]["vocab"]["<0x42>"]; }, "tokens \"<0x41>\" and \"<0x42>\" both have id "},
  };
  for (const auto& c : cases) {
    json changed = good;
    c.change(changed);
    check_contains(message_of([&] { write(changed, vocabulary); }), c.message);
  }
  check_contains(message_of([&] { write(good, vocabulary - 1); }), "but the model has");
}

TEST_CASE("gguf tokenizer: a tokenizer.model gives its scores and types") {
  const std::string file = read_text_file(golden / "sentencepiece-bpe" / "tokenizer.model");
  const SentencePieceModel model = SentencePieceModel::parse(file, "tokenizer.model");
  const std::string tokenizer_config = R"({"eos_token": "</s>", "chat_template": "{{ messages }}"})";
  GgufMetadata metadata("a.gguf");
  add_gguf_tokenizer(metadata, checkpoint_of({{"tokenizer.model", file}, {"tokenizer_config.json", tokenizer_config}}), std::ssize(model.pieces) + 4);
  CHECK(metadata.find_int("tokenizer.ggml.eos_token_id") == 2);
  CHECK(metadata.get_string("tokenizer.chat_template") == "{{ messages }}");
  const SentencePieceModel read = read_gguf_sentencepiece(metadata, *metadata.find_strings("tokenizer.ggml.tokens"), *metadata.find_ints("tokenizer.ggml.token_type"));
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    CHECK(read.pieces[id].text == model.pieces[id].text);
    CHECK(read.pieces[id].type == model.pieces[id].type);
    CHECK(read.pieces[id].score == model.pieces[id].score);
  }
  CHECK(read.pieces.back().score == -10000);
  check_same_ids(model.make_tokenizer("<s>", "t"), read_back(metadata), is_any);

  // A tokenizer.json beside it decides; scores that would merge in another order are not taken over.
  json tokenizer = model.make_tokenizer("<s>", "t");
  GgufMetadata both("a.gguf");
  add_gguf_tokenizer(both, checkpoint_of({{"tokenizer.model", file}, {"tokenizer.json", tokenizer.dump()}, {"tokenizer_config.json", tokenizer_config}}), std::ssize(model.pieces) + 4);
  CHECK(both.entries() == metadata.entries());
  std::ranges::reverse(tokenizer["model"]["merges"]);
  add_gguf_tokenizer(both, checkpoint_of({{"tokenizer.model", file}, {"tokenizer.json", tokenizer.dump()}}), std::ssize(model.pieces) + 4);
  check_same_ids(tokenizer, read_back(both), [](const std::string& text) { return text.size() < 3; });
  CHECK(both.find("tokenizer.ggml.scores")->value != metadata.find("tokenizer.ggml.scores")->value);
}

TEST_CASE("gguf tokenizer: a tokenizer.model with user-defined pieces") {
  SentencePieceModel model = SentencePieceModel::parse(read_text_file(golden / "sentencepiece-bpe" / "tokenizer.model"), "tokenizer.model");
  model.pieces.back().type = PieceType::user_defined;
  const json tokenizer = model.make_tokenizer(std::nullopt, "t");
  CHECK(tokenizer["model"]["user_defined_symbols"] == json{model.pieces.back().text});
  CHECK(adds_space_prefix(tokenizer, "t"));
  model.adds_dummy_prefix = false;
  CHECK_FALSE(adds_space_prefix(model.make_tokenizer(std::nullopt, "t"), "t"));
  model.removes_spaces = true;
  check_contains(message_of([&] { adds_space_prefix(model.make_tokenizer(std::nullopt, "t"), "t"); }), "llama.cpp does not have it");
}

TEST_CASE("Ids that are no whole numbers are not written as GGUF", "[gguf]") {
  const json written = {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}}}, {"merges", json::array()}}}, {"added_tokens", {{{"id", 1}, {"content", "b"}}}}, {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}}};
  for (const json& id : {json(1e20), json(0.5), json("0")}) {
    json in_vocabulary = written, added = written;
    in_vocabulary["model"]["vocab"]["a"] = id;
    added["added_tokens"][0]["id"] = id;
    CHECK_THROWS_WITH(write(in_vocabulary, 2), Catch::Contains("token \"a\": expected a whole number as its id, found " + id.dump()));
    CHECK_THROWS_WITH(write(added, 2), Catch::Contains("token \"b\": expected a whole number as its id, found " + id.dump()));
  }
}
