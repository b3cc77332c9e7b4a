// Tests that a tokenizer.json whose parts lead back to themselves, or multiply each other, is refused or ends in what Hugging Face's library
// answers. Ids in here are that library's.
#include "calib/model_tokens.h"
#include "tests/calib/small_tokenizer.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;
using nlohmann::json;

namespace {

using Ids = std::vector<int32_t>;

/// Byte pair encoding of characters, with nothing around it.
json character_pairs(json vocab, json merges, const json& more = json::object()) {
  json file = small_tokenizer();
  file["added_tokens"] = json::array();
  file["pre_tokenizer"] = file["decoder"] = nullptr;
  file["model"].update({{"vocab", std::move(vocab)}, {"merges", std::move(merges)}});
  file["model"].update(more);
  return file;
}

Ids encode(const json& file, const std::string& text) { return read_tokenizer(file).encode(text, SpecialTokens::omit); }
std::string complaint_at(const json& file, const std::string& text) {
  return message_of([&] { encode(file, text); });
}

json sequence_of(const char* key, json parts) { return {{"type", "Sequence"}, {key, std::move(parts)}}; }
json nest(json inner, const char* key, int levels) {
  for (int level = 0; level < levels; ++level) inner = sequence_of(key, json::array({inner}));
  return inner;
}

json repeat_parts(const json& parts, int times) {
  json list = json::array();
  for (int i = 0; i < times; ++i) list.insert(list.end(), parts.begin(), parts.end());
  return list;
}

json metaspace(const char* mark) { return {{"type", "Metaspace"}, {"replacement", mark}, {"prepend_scheme", "always"}, {"split", true}}; }

}  // namespace

TEST_CASE("hostile tokenizer: merges with empty tokens and with themselves end") {
  const json empty = character_pairs({{"a", 0}, {"b", 1}, {"", 2}, {"ab", 3}}, json::parse(R"([["", "a"], ["a", ""], ["", ""], ["a", "b"], ["ab", ""]])"));
  CHECK(encode(empty, "aab") == Ids{0, 3});
  CHECK(encode(empty, "abab") == Ids{3, 3});

  // "a" and "##" make "a" again: less the prefix, the second is empty
  const json prefix = character_pairs({{"a", 0}, {"##", 1}, {"##a", 2}}, json::parse(R"([["a", "##"], ["##", "##"], ["##a", "##"]])"), {{"continuing_subword_prefix", "##"}, {"unk_token", "##"}});
  CHECK(encode(prefix, "axx") == Ids{0});
  CHECK(encode(prefix, "axxa") == Ids{0, 2});
  CHECK(encode(prefix, "xax") == Ids{1, 2});
}

TEST_CASE("hostile tokenizer: merges that feed each other in a circle end") {
  const json doubles = character_pairs({{"a", 0}, {"aa", 1}, {"aaa", 2}, {"aaaa", 3}}, json::parse(R"([["aa", "aa"], ["aa", "a"], ["a", "aa"], ["a", "a"]])"));
  CHECK(encode(doubles, std::string(7, 'a')) == Ids{2, 2, 0});
  CHECK(encode(doubles, std::string(12, 'a')) == Ids{2, 2, 2, 2});
  CHECK(encode(doubles, std::string(300'000, 'a')).size() == 100'000);

  const json chain = character_pairs({{"a", 0}, {"b", 1}, {"ab", 2}, {"ba", 3}, {"aba", 4}, {"bab", 5}, {"abab", 6}},
                                     json::parse(R"([["a", "b"], ["b", "a"], ["ab", "a"], ["ba", "b"], ["ab", "ab"], ["b", "ab"], ["a", "ba"], ["ab", "a"]])"));
  CHECK(encode(chain, "abababa") == Ids{6, 4});
  CHECK(encode(chain, "bababab") == Ids{1, 6, 2});
  CHECK(encode(chain, "aabbaabb") == Ids{0, 2, 3, 2, 1});
}

TEST_CASE("hostile tokenizer: sequences in sequences are read as deep as JSON goes") {
  json file = small_tokenizer();
  file["normalizer"] = nest({{"type", "NFC"}}, "normalizers", 30);
  file["pre_tokenizer"] = nest(file["pre_tokenizer"], "pretokenizers", 30);
  file["post_processor"] = nest({{"type", "ByteLevel"}}, "processors", 30);
  file["decoder"] = nest(file["decoder"], "decoders", 30);
  CHECK(encode(file, "the the") == Ids{257, 258});
  CHECK(read_tokenizer(file).decode(Ids{257, 258}) == "the the");
  for (const auto& [part, key] : {std::pair("normalizer", "normalizers"), {"pre_tokenizer", "pretokenizers"}, {"post_processor", "processors"}, {"decoder", "decoders"}}) {
    json deeper = file;
    deeper[part] = nest(nullptr, key, 40);
    CHECK(refusal_of(deeper) == "tokenizer.json: JSON is nested more than 64 levels deep");
    deeper[part] = sequence_of(key, json::array({nullptr}));  // nothing in place of a part
    check_contains(refusal_of(deeper), std::string(part) + ": expected an object, found null");
  }
}

TEST_CASE("hostile tokenizer: one id of two contents, or one content with two ids") {
  json file = small_tokenizer();
  file["added_tokens"].push_back({{"id", 259}, {"content", "<|other|>"}});
  CHECK(encode(file, "<|end|><|other|>") == Ids{259, 260});  // the ids that Hugging Face's library gives, whatever the file says
  file["added_tokens"].back() = {{"id", 260}, {"content", "<|end|>"}};
  CHECK(encode(file, "<|end|>") == Ids{259});
  file["added_tokens"] = json::array({{{"id", 2147483646}, {"content", "<x>"}}});
  CHECK(encode(file, "<x>") == Ids{259});

  file["added_tokens"] = json::array({{{"id", 256}, {"content", "th"}}});  // what merges make is a token of its own as well
  CHECK(encode(file, "the th") == Ids{256, 'e', ' ', 256});
}

TEST_CASE("hostile tokenizer: the largest id there can be") {
  json file = small_tokenizer();
  file["model"]["vocab"]["the"] = 2147483646;
  const Tokenizer tokenizer = read_tokenizer(file);
  CHECK(tokenizer.vocabulary_size() == 2147483647);
  CHECK(tokenizer.encode("the", SpecialTokens::omit) == Ids{2147483646});
  CHECK(tokenizer.decode(Ids{2147483646}) == "the");
}

TEST_CASE("hostile tokenizer: a template that repeats a long list is refused") {
  json names(1024, "<|end|>"), ids(1024, 259);
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, many = {{"SpecialToken", {{"id", "many"}, {"type_id", 0}}}};
  json file = small_tokenizer();
  file["post_processor"] = {{"type", "TemplateProcessing"}, {"single", {many, text}}, {"pair", json::array()}, {"special_tokens", {{"many", {{"id", "many"}, {"ids", ids}, {"tokens", names}}}}}};
  CHECK(read_tokenizer(file).encode("the", SpecialTokens::add).size() == 1025);
  file["post_processor"]["single"] = {many, many, text};
  CHECK(refusal_of(file) == "tokenizer.json: post_processor: template: more than 1024 special tokens are not supported");
}

TEST_CASE("hostile tokenizer: steps that multiply each other are refused") {
  const json spell = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  json file = small_tokenizer();
  file["pre_tokenizer"] = sequence_of("pretokenizers", repeat_parts(json::array({spell}), 4));  // each but the last makes two characters of one
  CHECK(encode(file, "\u00E9").size() == 16);
  file["pre_tokenizer"] = sequence_of("pretokenizers", repeat_parts(json::array({spell}), 60));
  check_contains(complaint_at(file, "\u00E9"), "pre_tokenizer: makes more than ");
  CHECK(encode(file, "the") == Ids{257});

  file["pre_tokenizer"] = sequence_of("pretokenizers", repeat_parts({metaspace("a"), metaspace("b")}, 5));  // as many pieces as Fibonacci's rabbits
  file["decoder"] = nullptr;
  CHECK(encode(file, "x").size() == 90);
  file["pre_tokenizer"] = sequence_of("pretokenizers", repeat_parts({metaspace("a"), metaspace("b")}, 30));
  check_contains(complaint_at(file, "x"), "pre_tokenizer: makes more than ");

  file = small_tokenizer();
  const json twice = {{"type", "Replace"}, {"pattern", {{"String", "h"}}}, {"content", "hh"}};
  file["decoder"] = sequence_of("decoders", repeat_parts(json::array({twice}), 60));
  const Tokenizer tokenizer = read_tokenizer(file);
  CHECK(message_of([&] { tokenizer.decode(Ids{256}); }) == "decoder: makes more than 65664 bytes of a text");
  CHECK(message_of([&] { tokenizer.byte_lengths(Ids{256}); }) == "decoder: makes more than 65664 bytes of a text");

  file = small_tokenizer();
  file["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(40'000, 'b')}};
  CHECK(encode(file, "a").size() == 40'000);
  CHECK(complaint_at(file, std::string(100, 'a')) == "Replace: makes more than 71936 bytes of a text");
}

TEST_CASE("hostile tokenizer: an expression that backtracks without end gives up") {
  json file = small_tokenizer();
  file["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a+)+[bd]"}}}, {"behavior", "Isolated"}, {"invert", false}};
  check_contains(complaint_at(file, std::string(200, 'a') + "c"), "regular expression gives up at byte 0 of 201");
}

TEST_CASE("hostile tokenizer: long words of WordPiece take no longer than they are long") {
  json file = small_tokenizer();
  file["added_tokens"] = json::array();
  file["pre_tokenizer"] = file["decoder"] = nullptr;
  file["model"] = {{"type", "WordPiece"}, {"unk_token", "?"}, {"continuing_subword_prefix", ""}, {"max_input_chars_per_word", 65536}, {"vocab", {{"a", 0}, {"b" + std::string(60'000, 'a'), 1}, {"", 2}}}};
  CHECK(encode(file, std::string(65'536, 'a')) == Ids(65'536, 0));
}

TEST_CASE("hostile tokenizer: a first token that the model lacks is refused") {
  json file = small_tokenizer();
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, begin = {{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}};
  file["post_processor"] = {{"type", "TemplateProcessing"}, {"single", {begin, text}}, {"pair", json::array()}, {"special_tokens", {{"<|end|>", {{"id", "<|end|>"}, {"ids", {259}}, {"tokens", {"<|end|>"}}}}}}};
  const Tokenizer tokenizer = read_tokenizer(file);
  const Model model = load_model(golden_root() / "llama-gqa-tied", {}, test::context());
  check_contains(message_of([&] { find_first_token(model, tokenizer); }), "tokenizer.json: post_processor: token id 259 is outside the model's vocabulary of 112");
  CHECK_THROWS_AS(find_begin_token(model, &tokenizer), Error);
}
