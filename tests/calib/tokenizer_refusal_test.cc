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

json added(json id, json content) { return json::array({{{"id", id}, {"content", content}}}); }
json split(const std::string& expression) { return {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}}; }
json template_of(json single, json special_tokens) { return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", json::array()}, {"special_tokens", special_tokens}}; }
const json text_piece = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
const json end_piece = {{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}};

}  // namespace

TEST_CASE("tokenizer: parts that are not supported are named") {
  check({
      {"/version", "2.0", "tokenizer.json: version \"2.0\" is not supported"},
      {"/surprise", 1, "unknown field \"surprise\""},
      {"/normalizer", {{"type", "Precompiled"}}, "tokenizer.json: normalizer type \"Precompiled\" is not supported"},
      {"/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Strip"}}}}}, "normalizer type \"Strip\" is not supported"},
      {"/normalizer", {{"type", "Sequence"}}, "normalizer: field \"normalizers\" is missing or not a list"},
      {"/normalizer", {{"type", "NFC"}, {"extra", 1}}, "normalizer: unknown field \"extra\""},
      {"/normalizer", "NFC", "normalizer: expected an object, found string"},
      {"/pre_tokenizer", nullptr, "tokenizer.json: model: BPE without a ByteLevel pre_tokenizer is not supported"},
      {"/pre_tokenizer", {{"type", "Metaspace"}}, "tokenizer.json: pre_tokenizer type \"Metaspace\" is not supported"},
      {"/pre_tokenizer", split("a"), "BPE without a ByteLevel pre_tokenizer"},
      {"/pre_tokenizer/extra", 1, "pre_tokenizer: unknown field \"extra\""},
      {"/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}}, "pre_tokenizer type \"Digits\" after \"ByteLevel\" is not supported"},
      {"/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json(100, {{"type", "Digits"}})}}, "pre_tokenizer: more than 64 steps are not supported"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Sideways"}}, "pre_tokenizer: behavior \"Sideways\" is not supported"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "a"}, {"String", "a"}}}, {"behavior", "Isolated"}}, "expected \"Regex\" or \"String\""},
      {"/pre_tokenizer", {{"type", "Split"}, {"behavior", "Isolated"}}, "field \"pattern\" is missing"},
      {"/pre_tokenizer", split("a("), "regular expression a(: missing closing parenthesis at byte 2"},
      {"/pre_tokenizer", split("\\s*"), "matches the empty text, which is not supported"},
      {"/pre_tokenizer", split("\\bthe"), "\"\\b\" at byte 0 of the regular expression \\bthe is not supported"},
      {"/post_processor", {{"type", "RobertaProcessing"}}, "tokenizer.json: post_processor type \"RobertaProcessing\" is not supported"},
      {"/post_processor", template_of({text_piece, end_piece}, json::object()), "template: \"<|end|>\" is not among the special_tokens"},
      {"/post_processor", template_of(json::array(), json::object()), "template: expected the sequence A once, found none"},
      {"/post_processor", template_of({text_piece, text_piece}, json::object()), "expected the sequence A once"},
      {"/post_processor", template_of({text_piece}, {{"<|end|>", {{"id", "<|end|>"}, {"ids", {7}}, {"tokens", {"<|end|>"}}}}}), "id 7 is not the token \"<|end|>\""},
      {"/post_processor", {{"type", "Sequence"}, {"processors", {template_of({text_piece}, nullptr), template_of({text_piece}, nullptr)}}}, "more than one TemplateProcessing is not supported"},
      {"/decoder", {{"type", "WordPiece"}}, "tokenizer.json: decoder type \"WordPiece\" is not supported"},
      {"/decoder", {{"type", "Sequence"}, {"decoders", json::array()}}, "a Sequence that is not of one decoder is not supported"},
      {"/model", nullptr, "tokenizer.json: model: is missing"},
      {"/model/type", "Unigram", "tokenizer.json: model type \"Unigram\" is not supported"},
      {"/model/type", 3, "model: field \"type\": expected a string, found 3"},
      {"/model/dropout", 0.1, "tokenizer.json: model: dropout 0.1 is not supported"},
      {"/model/byte_fallback", true, "tokenizer.json: model: byte_fallback is not supported"},
      {"/model/continuing_subword_prefix", "##", "model: continuing_subword_prefix \"##\" is not supported"},
      {"/model/end_of_word_suffix", "</w>", "model: end_of_word_suffix \"</w>\" is not supported"},
      {"/model/surprise", 1, "model: unknown field \"surprise\""},
  });
}

TEST_CASE("tokenizer: an unknown token is refused only where it could be needed") {
  json file = small_tokenizer();
  file["model"]["unk_token"] = "<|end|>";
  CHECK_NOTHROW(read_tokenizer(file));
  file["model"]["vocab"].erase("z");
  file["model"]["vocab"]["zz"] = 'z';
  CHECK(refusal_of(file) == "tokenizer.json: model: unk_token \"<|end|>\" is not supported in a vocabulary that lacks bytes");
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
      {"/added_tokens/0/id", 300, "token \"<|end|>\": expected id 259, found 300"},
      {"/added_tokens/0/id", 65, "token \"<|end|>\": expected id 259, found 65"},
      {"/added_tokens/0/id", -1, "expected an id from 0 to 2147483646, found -1"},
      {"/added_tokens/0/id", nullptr, "expected an id from 0 to 2147483646, found none"},
      {"/added_tokens/0/content", "", "token 259 has no content"},
      {"/added_tokens/0/content", "the", "token \"the\": expected id 257, found 259"},
      {"/added_tokens/0/lstrip", "yes", "field \"lstrip\": expected true or false"},
      {"/added_tokens/0/extra", 1, "unknown field \"extra\""},
  });
  json file = small_tokenizer();
  file["added_tokens"].push_back({{"id", 260}, {"content", "<|end|>"}});
  CHECK(refusal_of(file) == "tokenizer.json: added_tokens: token \"<|end|>\" is listed twice");

  file = small_tokenizer();
  file["model"]["vocab"].erase("b");  // the next free id, as many as there are tokens, is taken
  file["added_tokens"] = added(258, "<x>");
  check_contains(refusal_of(file), "token \"<x>\" has id 258, which is \"Ġthe\" in the vocabulary");
}

TEST_CASE("tokenizer: all complaints come at once") {
  json file = small_tokenizer();
  file["version"] = "3";
  file["normalizer"] = {{"type", "Nmt"}};
  file["decoder"] = {{"type", "Fuse"}};
  file["model"]["byte_fallback"] = true;
  CHECK(refusal_of(file) ==
        "tokenizer.json: 4 problems\n  - version \"3\" is not supported\n  - normalizer type \"Nmt\" is not supported\n"
        "  - decoder type \"Fuse\" is not supported\n  - model: byte_fallback is not supported");
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
