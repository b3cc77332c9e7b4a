// Tests that a tokenizer.json which is damaged, or says what llmc does not do, is refused by name.
#include <functional>

#include "core/mapped_file.h"
#include "tests/calib/small_tokenizer.h"

using namespace llmc;
using nlohmann::json;

namespace {

struct Refusal {
  std::string pointer;  ///< what is set, as a JSON pointer
  json value;
  std::string message;  ///< a part of it
};

void check(const std::vector<Refusal>& refusals) {
  for (const Refusal& refusal : refusals) {
    json file = small_tokenizer();
    file[json::json_pointer(refusal.pointer)] = refusal.value;
    INFO(refusal.pointer << " = " << refusal.value.dump());
    check_contains(refusal_of(file), refusal.message);
  }
}

json refused_split(const std::string& expression) { return {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}}; }
json template_of(json single, json special_tokens) { return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", json::array()}, {"special_tokens", special_tokens}}; }
const json text_piece = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
const json end_piece = {{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}};

}  // namespace

TEST_CASE("tokenizer: parts that are not supported are named") {
  check({
      {"/version", "2.0", "tokenizer.json: version \"2.0\" is not supported"},
      {"/surprise", 1, "unknown field \"surprise\""},
      {"/normalizer", {{"type", "Capitalize"}}, "tokenizer.json: normalizer type \"Capitalize\" is not supported"},
      {"/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Twist"}}}}}, "normalizer type \"Twist\" is not supported"},
      {"/pre_tokenizer", {{"type", "Sentences"}}, "tokenizer.json: pre_tokenizer type \"Sentences\" is not supported"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Sideways"}}, "pre_tokenizer: behavior \"Sideways\" is not supported"},
      {"/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}}, "pre_tokenizer: prepend_scheme \"last\" is not supported"},
      {"/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json(100, {{"type", "Digits"}})}}, "pre_tokenizer: more than 64 steps are not supported"},
      {"/normalizer", {{"type", "Sequence"}, {"normalizers", json(100, {{"type", "NFC"}})}}, "normalizer: more than 64 steps are not supported"},
      {"/decoder", {{"type", "Sequence"}, {"decoders", json(100, {{"type", "Fuse"}})}}, "decoder: more than 64 steps are not supported"},
      {"/post_processor", {{"type", "Echo"}}, "tokenizer.json: post_processor type \"Echo\" is not supported"},
      {"/post_processor", {{"type", "Sequence"}, {"processors", {template_of({text_piece}, nullptr), template_of({text_piece}, nullptr)}}}, "more than one TemplateProcessing is not supported"},
      {"/decoder", {{"type", "Speak"}}, "tokenizer.json: decoder type \"Speak\" is not supported"},
      {"/model/type", "Bigram", "tokenizer.json: model type \"Bigram\" is not supported"},
      {"/model/dropout", 0.1, "tokenizer.json: model: dropout 0.1 is not supported"},
  });
}

TEST_CASE("tokenizer: parts that are not what they should be are named") {
  check({
      {"/normalizer", {{"type", "Sequence"}}, "normalizer: field \"normalizers\" is missing or not a list"},
      {"/normalizer", {{"type", "NFC"}, {"extra", 1}}, "normalizer: unknown field \"extra\""},
      {"/normalizer", "NFC", "normalizer: expected an object, found string"},
      {"/normalizer", {{"type", "Prepend"}}, "normalizer: field \"prepend\" is missing"},
      {"/normalizer", {{"type", "Replace"}, {"pattern", {{"String", "a"}}}}, "normalizer: field \"content\" is missing"},
      {"/normalizer", {{"type", "Replace"}, {"content", "a"}}, "normalizer: field \"pattern\" is missing"},
      {"/normalizer", {{"type", "BertNormalizer"}, {"lowercase", 1}}, "field \"lowercase\": expected true or false"},
      {"/normalizer", {{"type", "Precompiled"}}, "normalizer: field \"precompiled_charsmap\" is missing"},
      {"/pre_tokenizer/extra", 1, "pre_tokenizer: unknown field \"extra\""},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "a"}, {"String", "a"}}}, {"behavior", "Isolated"}}, "expected \"Regex\" or \"String\""},
      {"/pre_tokenizer", {{"type", "Split"}, {"behavior", "Isolated"}}, "field \"pattern\" is missing"},
      {"/pre_tokenizer", refused_split("a("), "regular expression a(: missing closing parenthesis at byte 2"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", ""}}}, {"behavior", "Isolated"}}, "pre_tokenizer: pattern: an empty String is not supported"},
      {"/pre_tokenizer", refused_split("\\Xthe"), "\"\\X\" at byte 0 of the regular expression \\Xthe is not supported"},
      {"/pre_tokenizer", {{"type", "Metaspace"}}, "pre_tokenizer: field \"replacement\" is missing"},
      {"/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "ab"}}, "pre_tokenizer: replacement: expected one character, found \"ab\""},
      {"/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", ""}}, "expected one character, found \"\""},
      {"/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"add_prefix_space", false}, {"prepend_scheme", "always"}}, "contradict each other"},
      {"/pre_tokenizer", {{"type", "CharDelimiterSplit"}, {"delimiter", "--"}}, "pre_tokenizer: delimiter: expected one character, found \"--\""},
      {"/pre_tokenizer", {{"type", "FixedLength"}, {"length", 0}}, "pre_tokenizer: length: expected 1 to 65535, found 0"},
      {"/pre_tokenizer", {{"type", "FixedLength"}, {"length", 1000000}}, "expected 1 to 65535, found 1000000"},
      {"/post_processor", template_of({text_piece, end_piece}, json::object()), "template: \"<|end|>\" is not among the special_tokens"},
      {"/post_processor", template_of(json::array(), json::object()), "template: expected the sequence A once, found none"},
      {"/post_processor", template_of({text_piece, text_piece}, json::object()), "expected the sequence A once"},
      {"/post_processor", template_of({text_piece}, {{"<|end|>", {{"id", "<|end|>"}, {"ids", {7}}, {"tokens", {"<|end|>"}}}}}), "id 7 is not the token \"<|end|>\""},
      {"/post_processor", {{"type", "RobertaProcessing"}, {"cls", {"<|end|>", 259}}}, "post_processor: sep: expected [\"token\", id], found none"},
      {"/post_processor", {{"type", "BertProcessing"}, {"cls", {"<|end|>", -1}}, {"sep", {"<|end|>", 259}}}, "cls: expected [\"token\", id], found [\"<|end|>\",-1]"},
      {"/post_processor", {{"type", "BertProcessing"}, {"cls", {"<|end|>", 259}}, {"sep", {"<|end|>", 5}}}, "sep: id 5 is not the token \"<|end|>\""},
      {"/decoder", {{"type", "Sequence"}}, "decoder: field \"decoders\" is missing or not a list"},
      {"/decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}}, "decoder: start: expected 0 or more, found -1"},
      {"/decoder", {{"type", "Strip"}, {"content", ""}, {"start", 0}, {"stop", 0}}, "decoder: content is empty"},
      {"/decoder", {{"type", "BPEDecoder"}, {"suffix", ""}}, "decoder: suffix is empty"},
      {"/model", nullptr, "tokenizer.json: model: is missing"},
      {"/model/type", 3, "model: field \"type\": expected a string, found 3"},
      {"/model/surprise", 1, "model: unknown field \"surprise\""},
      {"/model/continuing_subword_prefix", "##", "merge 0 of \"t\" and \"h\": the second does not start with the continuing_subword_prefix \"##\""},
  });
}

TEST_CASE("tokenizer: models that cannot be are refused") {
  const json pieces = json::parse(R"([["<unk>", 0], ["a", -1.5]])");
  const auto unigram = [](json vocab, json unknown) { return json{{"type", "Unigram"}, {"vocab", vocab}, {"unk_id", unknown}}; };
  const auto word_piece = [](json most) { return json{{"type", "WordPiece"}, {"vocab", {{"a", 0}}}, {"unk_token", "[UNK]"}, {"continuing_subword_prefix", "##"}, {"max_input_chars_per_word", most}}; };
  check({
      {"/model", unigram(json::object(), 0), "model: field \"vocab\" is missing or not a list"},
      {"/model", unigram(json::array(), nullptr), "model: vocab: is empty"},
      {"/model", unigram(pieces, 2), "model: unk_id 2 is not in the vocabulary of 2"},
      {"/model", unigram(pieces, -1), "model: unk_id -1 is not in the vocabulary of 2"},
      {"/model", unigram(json::parse(R"([["a", "b"]])"), 0), "model: vocab: piece 0: expected [\"token\", score], found [\"a\",\"b\"]"},
      {"/model", word_piece(-1), "model: max_input_chars_per_word: expected 0 to 65536, found -1"},
      {"/model", word_piece(nullptr), "model: field \"max_input_chars_per_word\" is missing"},
      {"/model", {{"type", "WordPiece"}}, "model: field \"vocab\" is missing"},
      {"/model", {{"type", "WordLevel"}, {"vocab", {{"a", 0}}}}, "model: field \"unk_token\" is missing"},
  });
}

TEST_CASE("tokenizer: an unknown token is refused where it is needed and not there") {
  json file = small_tokenizer();
  file["added_tokens"] = json::array();
  file["model"]["vocab"].erase("z");
  file["model"]["unk_token"] = "the";
  CHECK(read_tokenizer(file).encode("azb", SpecialTokens::omit) == std::vector<int32_t>{'a', 257, 'b'});
  file["model"]["unk_token"] = "<unk>";
  const auto refuse = [&] { return message_of([&] { read_tokenizer(file).encode("a z", SpecialTokens::omit); }); };
  CHECK(refuse() == "text: the character U+007A has no token, and unk_token \"<unk>\" is not in the vocabulary");
  file["pre_tokenizer"] = nullptr;
  file["model"]["unk_token"] = nullptr;
  CHECK(refuse() == "text: the vocabulary has no token for the character U+0020");
  file["model"] = {{"type", "Unigram"}, {"vocab", json::parse(R"([["a", -1]])")}, {"unk_id", nullptr}};
  CHECK(refuse() == "text: no token holds the character U+0020, and there is no unk_id");
  file["model"] = {{"type", "WordLevel"}, {"vocab", {{"a", 0}}}, {"unk_token", "<unk>"}};
  CHECK(refuse() == "text: the word \"a z\" has no token, and unk_token \"<unk>\" is not in the vocabulary");
}

TEST_CASE("tokenizer: a text that steps multiply beyond measure is refused") {
  json file = small_tokenizer();
  const json twice = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", json(60, twice)}};
  CHECK(message_of([&] { read_tokenizer(file).encode("a", SpecialTokens::omit); }) == "normalizer: makes more than 65600 bytes of a text");
}

TEST_CASE("tokenizer: a compiled map that leads out of itself is refused") {
  const auto refuse = [](const std::string& map) {
    json file = small_tokenizer();
    file["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", map}};
    return message_of([&] { read_tokenizer(file).encode("a", SpecialTokens::omit); });
  };
  check_contains(refuse("abc"), "precompiled_charsmap: 3 characters are not base64");
  check_contains(refuse("ab!="), "precompiled_charsmap: character 2 is not base64");
  check_contains(refuse("AAA="), "precompiled_charsmap: 2 bytes are too few");
  check_contains(refuse("AAAAAA=="), "a trie of 0 bytes does not fit a map of 4");
  check_contains(refuse("/////w=="), "a trie of 4294967295 bytes does not fit a map of 4");
  check_contains(refuse("BAAAAAAAAAD/"), "replacements: byte 0 (0xFF) is not valid UTF-8");
  check_contains(refuse("BAAAAP///38="), "the trie leads to unit");
}

TEST_CASE("tokenizer: long affixes and expressions are refused") {
  const std::string affix(65, 'x');
  check({
      {"/model/continuing_subword_prefix", affix, "continuing_subword_prefix: has 65 bytes; at most 64 are supported"},
      {"/model/end_of_word_suffix", affix, "end_of_word_suffix: has 65 bytes; at most 64 are supported"},
      {"/model", {{"type", "WordPiece"}, {"vocab", {{"a", 0}}}, {"unk_token", "a"}, {"continuing_subword_prefix", affix}, {"max_input_chars_per_word", 100}}, "continuing_subword_prefix: has 65 bytes"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", std::string(65'537, 'x')}}}, {"behavior", "Isolated"}, {"invert", false}}, "regular expression of 65537 bytes; at most 65536 are supported"},
  });
}

TEST_CASE("tokenizer: ids and merges that cannot be are listed") {
  check({
      {"/model/vocab", nullptr, "model: field \"vocab\" is missing"},
      {"/model/vocab", json::array(), "model: vocab: expected an object of tokens and ids, found array"},
      {"/model/vocab/the", -1, "token \"the\": expected an id from 0 to 2147483646, found -1"},
      {"/model/vocab/the", 2147483647, "expected an id from 0 to 2147483646, found 2147483647"},
      {"/model/vocab/the", 18446744073709551615u, "found 18446744073709551615"},
      {"/model/vocab/the", 1.5, "found 1.5"},
      {"/model/vocab/the", "257", "found \"257\""},
      {"/model/vocab/the", 65, "share the id 65"},
      {"/model/merges", nullptr, "model: field \"merges\" is missing or not a list"},
      {"/model/merges/0", "t x", "merge 0 of \"t\" and \"x\": \"tx\" is not in the vocabulary"},
      {"/model/merges/0", "tx h", "\"tx\" is not in the vocabulary"},
      {"/model/merges/0", "t  h", "merge 0: expected \"a b\" or [\"a\", \"b\"], found \"t  h\""},
      {"/model/merges/0", {"t", "h", "e"}, "merge 0: expected \"a b\" or [\"a\", \"b\"]"},
      {"/model/merges/0", {"t", 1}, "merge 0: expected \"a b\" or [\"a\", \"b\"]"},
      {"/model/merges/0", 7, "found 7"},
      {"/added_tokens", {{"a", 1}}, "added_tokens: expected a list, found object"},
      {"/added_tokens/0/id", -1, "expected an id from 0 to 2147483646, found -1"},
      {"/added_tokens/0/id", nullptr, "expected an id from 0 to 2147483646, found none"},
      {"/added_tokens/0/lstrip", "yes", "field \"lstrip\": expected true or false"},
      {"/added_tokens/0/extra", 1, "unknown field \"extra\""},
  });
}

TEST_CASE("tokenizer: all complaints come at once") {
  json file = small_tokenizer();
  file["version"] = "3";
  file["normalizer"] = {{"type", "Capitalize"}};
  file["decoder"] = {{"type", "Speak"}};
  file["model"]["dropout"] = 0.5;
  CHECK(refusal_of(file) ==
        "tokenizer.json: 4 problems\n  - version \"3\" is not supported\n  - normalizer type \"Capitalize\" is not supported\n"
        "  - decoder type \"Speak\" is not supported\n  - model: dropout 0.5 is not supported");
}

TEST_CASE("tokenizer: broken files are refused and never crash") {
  const std::string whole = small_tokenizer().dump();
  for (size_t size = 0; size < whole.size(); size += 7) CHECK_THROWS_AS(Tokenizer::parse(whole.substr(0, size), "t"), Error);
  for (const char* text : {"", "null", "[]", "3", "{}", "{\"model\":[]}", "{\"model\":{}}", "{\"a\":1,\"a\":2}", "\xFF"}) {
    INFO(text);
    CHECK_THROWS_AS(Tokenizer::parse(text, "t"), Error);
  }
  check_contains(message_of([] { Tokenizer::parse("{\"version\":\"1.0\",\"version\":\"1.0\"}", "t"); }), "appears twice");
  check_contains(message_of([] { Tokenizer::parse("{\"model\":{\"type\":\"\xC3(\"}}", "t"); }), "t: not valid JSON");
}
