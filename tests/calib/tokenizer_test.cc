// Tests text → ids → text against what Hugging Face tokenizers answered (tests/golden/make_golden.py), and its own promises.
#include "calib/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <thread>

#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/utf8.h"
#include "tests/calib/golden_tokenizers.h"
#include "tests/calib/small_tokenizer.h"

using namespace llmc;
using nlohmann::json;

namespace {

const std::filesystem::path source = LLMC_SOURCE_DIR;
using Ids = std::vector<int32_t>;

Tokenizer load(const std::filesystem::path& path) { return Tokenizer::parse(read_text_file(path), path.string()); }
Tokenizer quill() { return load(source / "sample_models/quill-7m/tokenizer.json"); }

std::vector<json> read_lines(const std::filesystem::path& path) {
  std::vector<json> lines;
  std::ifstream file(path);
  REQUIRE(file);
  for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
  REQUIRE(!lines.empty());
  return lines;
}

void check_cases(const Tokenizer& tokenizer, const std::filesystem::path& path) {
  for (const json& line : read_lines(path)) {
    INFO(line.dump());
    const Ids ids = line.at("ids").get<Ids>();
    if (line.contains("text")) CHECK(tokenizer.encode(line.at("text").get<std::string>(), SpecialTokens::add) == ids);
    CHECK(tokenizer.decode(ids) == line.at("decoded").get<std::string>());
  }
}

/// Letters, marks, spaces and symbols from everywhere, and never a surrogate.
std::string random_text(std::mt19937& random) {
  static constexpr char32_t most[] = {0x80, 0x80, 0x250, 0x3100, 0xD800, 0x110000};
  std::string text;
  const int count = std::uniform_int_distribution(0, 60)(random);
  for (int i = 0; i < count; ++i) {
    const char32_t character = std::uniform_int_distribution<uint32_t>(0, most[random() % std::size(most)] - 1)(random);
    append_code_point(character >= 0xD800 && character < 0xE000 ? U' ' : character, text);
  }
  return text;
}

}  // namespace

TEST_CASE("tokenizer: the golden cases") {
  check_cases(quill(), golden / "quill_cases.jsonl");
  check_cases(quill(), golden / "quill_decode_cases.jsonl");
  for (const std::string name : {"prefix-space", "ignore-merges"}) check_cases(load(golden / name / "tokenizer.json"), golden / name / "cases.jsonl");
}

TEST_CASE("tokenizer: byte-level text survives a round trip, and every byte is counted") {
  const Tokenizer tokenizer = quill();
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = random_text(random);
    const Ids ids = tokenizer.encode(text, SpecialTokens::add);
    REQUIRE(tokenizer.decode(ids) == text);
    const std::vector<int32_t> lengths = tokenizer.byte_lengths(ids);
    REQUIRE(static_cast<size_t>(std::accumulate(lengths.begin(), lengths.end(), 0)) == text.size());
  }
}

TEST_CASE("tokenizer: the size of the vocabulary counts model and added tokens") {
  CHECK(quill().vocabulary_size() == 4096);
  CHECK(read_tokenizer(small_tokenizer()).vocabulary_size() == 260);
}

TEST_CASE("tokenizer: special tokens stand for no bytes") {
  json file = small_tokenizer();
  file["added_tokens"].push_back({{"id", 260}, {"content", "naïve"}, {"special", false}});
  const Tokenizer tokenizer = read_tokenizer(file);
  const Ids ids = tokenizer.encode("the<|end|> the naïve", SpecialTokens::omit);
  CHECK(ids == Ids{257, 259, 258, ' ', 260});
  CHECK(tokenizer.byte_lengths(ids) == std::vector<int32_t>{3, 0, 4, 1, 6});
}

TEST_CASE("tokenizer: an added token that is searched in normalized text is written as it is there") {
  json file = small_tokenizer();
  file["normalizer"] = {{"type", "Lowercase"}};
  file["added_tokens"].push_back({{"id", 260}, {"content", "<M>"}, {"normalized", true}});
  file["added_tokens"].push_back({{"id", 261}, {"content", "<N>"}, {"normalized", false}});
  const Tokenizer tokenizer = read_tokenizer(file);
  CHECK(tokenizer.encode("<M><m><N>", SpecialTokens::omit) == Ids{260, 260, 261});
  CHECK(tokenizer.decode(Ids{260, 261}) == "<m><N>");
}

TEST_CASE("tokenizer: the template's tokens are added on request") {
  json file = small_tokenizer();
  const json end = {{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}};
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  file["post_processor"] = {{"type", "Sequence"},
                            {"processors",
                             {{{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}, {"use_regex", true}},
                              {{"type", "TemplateProcessing"},
                               {"single", {end, text, end, end}},
                               {"pair", json::array()},
                               {"special_tokens", {{"<|end|>", {{"id", "<|end|>"}, {"ids", {259}}, {"tokens", {"<|end|>"}}}}}}}}}};
  const Tokenizer tokenizer = read_tokenizer(file);
  CHECK(tokenizer.encode("the", SpecialTokens::add) == Ids{259, 257, 259, 259});
  CHECK(tokenizer.encode("", SpecialTokens::add) == Ids{259, 259, 259});
  CHECK(tokenizer.encode("the", SpecialTokens::omit) == Ids{257});
}

TEST_CASE("tokenizer: merges may be pairs, and old files leave things out") {
  json file = small_tokenizer();
  file["model"]["merges"] = json::parse(R"([["t", "h"], ["th", "e"], ["Ġ", "the"]])");
  CHECK(read_tokenizer(file).encode(" the", SpecialTokens::omit) == Ids{258});
  file["model"]["merges"] = {"#version: 0.2", "t h", "th e"};
  for (const char* key : {"type", "dropout", "byte_fallback", "ignore_merges", "fuse_unk"}) file["model"].erase(key);
  for (const char* key : {"version", "truncation", "padding", "post_processor"}) file.erase(key);
  file["model"]["continuing_subword_prefix"] = "";  // as GPT-2's own file has it
  CHECK(read_tokenizer(file).encode(" the", SpecialTokens::omit) == Ids{' ', 257});
}

TEST_CASE("tokenizer: of equal pairs the last counts, as in Hugging Face's table") {
  json file = small_tokenizer();
  file["model"]["vocab"]["he"] = 260;
  file["added_tokens"] = json::array();
  file["model"]["merges"] = {"t h", "h e", "t h"};
  file["model"]["vocab"]["x!"] = 259;
  CHECK(read_tokenizer(file).encode("the", SpecialTokens::omit) == Ids{'t', 260});
}

TEST_CASE("tokenizer: many threads may share one") {
  const Tokenizer tokenizer = quill();
  const std::string text = "It's a truth universally acknowledged, that a single man in possession of 1,000 naïve ideas…";
  const Ids expected = tokenizer.encode(text, SpecialTokens::add);
  std::vector<int> same(8);
  {
    std::vector<std::jthread> threads;
    for (int& ok : same) threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) ok += tokenizer.encode(text, SpecialTokens::add) == expected && tokenizer.decode(expected) == text;
    });
  }
  for (int ok : same) CHECK(ok == 50);
}

TEST_CASE("tokenizer: many texts together are the same for any number of threads") {
  const Tokenizer tokenizer = quill();
  std::vector<std::string> texts = {"", std::string(100'000, 'a')};
  std::vector<Ids> expected;
  for (int i = 0; i < 5000; ++i) texts.push_back("Text " + std::to_string(i) + " of the naïve king, and of what he said to text " + std::to_string(i / 7));
  for (const std::string& text : texts) expected.push_back(tokenizer.encode(text, SpecialTokens::add));
  for (int threads : {1, 2, 5}) with_threads(threads, [&] { CHECK(tokenizer.encode_all(texts, SpecialTokens::add) == expected); });
  CHECK(tokenizer.encode_all({}, SpecialTokens::add).empty());
  texts[4000] = "a\xFF", texts[4900] = "\xFE";
  CHECK(message_of([&] { tokenizer.encode_all(texts, SpecialTokens::add); }) == "text: byte 1 (0xFF) is not valid UTF-8");
}

TEST_CASE("tokenizer: text that cannot be encoded is refused with its place") {
  const Tokenizer tokenizer = read_tokenizer(small_tokenizer());
  const auto refuse = [&](std::string text) {
    return message_of([&] { tokenizer.encode(text, SpecialTokens::omit); });
  };
  CHECK(refuse("abc\xFF") == "text: byte 3 (0xFF) is not valid UTF-8");
  CHECK(refuse("0123456789\xC3") == "text: byte 10 (0xC3) is not valid UTF-8");
  CHECK(refuse("\xED\xA0\x80") == "text: byte 0 (0xED) is not valid UTF-8");          // a surrogate
  CHECK(refuse("a\xC0\xAF") == "text: byte 1 (0xC0) is not valid UTF-8");              // overlong
  CHECK(refuse("é\xF4\x90\x80\x80") == "text: byte 2 (0xF4) is not valid UTF-8");  // past U+10FFFF
  CHECK(tokenizer.encode(std::string_view("\0a", 2), SpecialTokens::omit) == Ids{0, 'a'});

  json file = small_tokenizer();
  file["model"]["vocab"].erase("z");
  file["model"]["vocab"]["zz"] = 'z';
  const Tokenizer lacking = read_tokenizer(file);
  CHECK(message_of([&] { lacking.encode("a z", SpecialTokens::omit); }) == "text: the vocabulary has no token for byte 0x7A");
}

TEST_CASE("tokenizer: ids that no token has are refused") {
  const Tokenizer tokenizer = read_tokenizer(small_tokenizer());
  for (const int32_t id : {-1, 260, INT32_MAX}) {
    CHECK(message_of([&] { tokenizer.decode(Ids{id}); }) == "tokenizer.json: no token has the id " + std::to_string(id));
    CHECK(message_of([&] { tokenizer.byte_lengths(Ids{id}); }) == "tokenizer.json: no token has the id " + std::to_string(id));
  }
}

TEST_CASE("utf8: broken parts are replaced as Unicode recommends") {
  // Unicode 15, table 3-8, and the example before it.
  CHECK(replace_invalid_utf8("a\xF1\x80\x80\xE1\x80\xC2" "b\x80" "c\x80\xBF" "d") == "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  CHECK(replace_invalid_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82" "A") == "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
  CHECK(replace_invalid_utf8("\xF4\x91\x92\x93\xFF" "A\x80\xBF" "B") == "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA\uFFFD\uFFFDB");
  CHECK(replace_invalid_utf8("é東😀") == "é東😀");
}
