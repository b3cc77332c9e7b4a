// Tests how text is cut into words, normalized, and searched for added tokens.
#include "calib/pre_tokenizer.h"

#include "calib/oniguruma_syntax.h"
#include "calib/text_normalizer.h"
#include "tests/calib/small_tokenizer.h"

using namespace llmc;
using nlohmann::json;

namespace {

using Words = std::vector<std::string>;

Words split(const json& pre_tokenizer, const std::string& text) {
  Words words;
  PreTokenizer::parse(&pre_tokenizer, "pre_tokenizer").split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}
json split_step(const char* kind, const std::string& pattern, const std::string& behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{kind, pattern}}}, {"behavior", behavior}, {"invert", invert}};
}

}  // namespace

TEST_CASE("pre-tokenizer: what becomes of delimiters") {
  // The examples of Hugging Face's SplitDelimiterBehavior.
  const std::string text = "the-final--countdown";
  CHECK(split(split_step("String", "-", "Removed"), text) == Words{"the", "final", "countdown"});
  CHECK(split(split_step("String", "-", "Isolated"), text) == Words{"the", "-", "final", "-", "-", "countdown"});
  CHECK(split(split_step("String", "-", "MergedWithPrevious"), text) == Words{"the-", "final-", "-", "countdown"});
  CHECK(split(split_step("String", "-", "MergedWithNext"), text) == Words{"the", "-final", "-", "-countdown"});
  CHECK(split(split_step("String", "-", "Contiguous"), text) == Words{"the", "-", "final", "--", "countdown"});
  CHECK(split(split_step("Regex", "[^-]+", "Removed", true), text) == Words{"the", "final", "countdown"});
  CHECK(split(split_step("Regex", "\\w+|[^\\w\\s]+", "Contiguous", true), "How are you doing?") == Words{"How", " ", "are", " ", "you", " ", "doing?"});
  CHECK(split(split_step("String", "(.", "Removed"), "a(.b(c.") == Words{"a", "b(c."});
}

TEST_CASE("pre-tokenizer: GPT-2's words") {
  const json gpt2 = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  CHECK(split(gpt2, "It's  a\n\n 12x  ") == Words{"It", "'s", " ", " a", "\n\n", " 12", "x", "  "});
  // U+180E has not been white space since Unicode 6.3, U+0085 is.
  CHECK(split(gpt2, "a\u180E b\u0085c") == Words{"a", "\u180E", " b", "\u0085", "c"});
  CHECK(split(gpt2, "").empty());
}

TEST_CASE("pre-tokenizer: a space is put before every piece that lacks one") {
  const json prefix = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", false}};
  CHECK(split(prefix, "a b") == Words{" a b"});
  CHECK(split(prefix, " a") == Words{" a"});
  CHECK(split(prefix, "\na") == Words{" \na"});
  CHECK(split({{"type", "Sequence"}, {"pretokenizers", {split_step("String", "-", "Removed"), prefix}}}, "a- b") == Words{" a", " b"});
}

TEST_CASE("pre-tokenizer: digits") {
  CHECK(split({{"type", "Digits"}, {"individual_digits", true}}, "a12½b") == Words{"a", "1", "2", "½", "b"});
  CHECK(split({{"type", "Digits"}, {"individual_digits", false}}, "a12½b") == Words{"a", "12½", "b"});
}

TEST_CASE("pre-tokenizer: Metaspace marks spaces and the start") {
  const auto metaspace = [](const char* scheme, bool splits) { return json{{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", splits}}; };
  CHECK(split(metaspace("first", true), " a  b") == Words{"▁a", "▁", "▁b"});
  CHECK(split(metaspace("never", false), " a  b") == Words{"▁a▁▁b"});
  CHECK(split(metaspace("always", true), "a b") == Words{"▁a", "▁b"});
  const auto after_words = [&](const char* scheme) { return json{{"type", "Sequence"}, {"pretokenizers", {{{"type", "WhitespaceSplit"}}, metaspace(scheme, true)}}}; };
  CHECK(split(after_words("first"), "a b") == Words{"▁a", "b"});
  CHECK(split(after_words("first"), " a b") == Words{"a", "b"});
  CHECK(split(after_words("always"), "a b") == Words{"▁a", "▁b"});
}

TEST_CASE("pre-tokenizer: punctuation, delimiters, fixed lengths") {
  CHECK(split({{"type", "Punctuation"}, {"behavior", "Contiguous"}}, "a..b!c") == Words{"a", "..", "b", "!", "c"});
  CHECK(split({{"type", "Punctuation"}}, "a..b") == Words{"a", ".", ".", "b"});
  CHECK(split({{"type", "CharDelimiterSplit"}, {"delimiter", "-"}}, "a--b-") == Words{"a", "b"});
  CHECK(split({{"type", "FixedLength"}, {"length", 3}}, "abcdéfg\nh") == Words{"abc", "déf", "g\nh"});
  CHECK(split({{"type", "Whitespace"}}, "it's  a_b—c") == Words{"it", "'", "s", "a_b", "—", "c"});
  CHECK(split({{"type", "BertPreTokenizer"}}, "it's\u3000a_b—c") == Words{"it", "'", "s", "a", "_", "b", "—", "c"});
}

TEST_CASE("pre-tokenizer: what comes after ByteLevel sees the byte alphabet") {
  const json falcon = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}, {"add_prefix_space", false}}, {{"type", "Digits"}, {"individual_digits", false}}}}};
  CHECK(split(falcon, " é12 ²") == Words{"ĠÃ©", "12", "ĠÂ", "²"});  // U+00B2 spells the byte B2, which is a digit then
}

TEST_CASE("oniguruma: what is written otherwise in PCRE2") {
  const auto translate = [](const char* expression) { return translate_oniguruma(expression, "w"); };
  CHECK(translate(R"(\s+(?!\S)|[^\s\p{L}])") == R"(\p{White_Space}+(?!\P{White_Space})|[^\p{White_Space}\p{L}])");
  CHECK(translate(R"(\w[\w-]\d\v)") == R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}][\p{Alphabetic}\p{M}\p{Nd}\p{Pc}-]\p{Nd}\x0B)");
  CHECK(translate(R"(^a$)") == R"((?m:^)a(?m:$))");
  CHECK(translate(R"([^(\s|[.,]x])") == R"([^(\p{White_Space}|.,x])");
  CHECK(translate(R"(\p{Han}\P{Lu}\p{^N})") == R"(\p{sc:Han}\P{Lu}\p{^N})");
  CHECK(translate(R"(a{,3}b{2}c{1,}?{x)") == R"(a{0,3}b{2}c{1,}?\{x)");
  CHECK(translate(R"(\u00E9\x41\x{1F600}\'\é)") == R"(\x{00E9}\x{41}\x{1F600}\'é)");
}

TEST_CASE("oniguruma: what may mean something else is refused") {
  for (const std::string expression : {"\\b", "\\B", "\\h", "\\R", "\\X", "\\K", "\\G", "\\1", "\\k<a>", "\\Q", "(?<a>b)", "(?m:a)", "(?i)a", "(?#a)", "(*FAIL)", "[[:alpha:]]", "[a&&b]", "[a[^b]]",
                                       "[]a]", "[a", "[\\W]", "[\\A]", "a{2}?", "a{1,2}+", "\\pL", "\\p{}", "\\p{L", "\\p{Script=Han}", "\\xE9", "\\x4", "\\x{}", "\\u12", "\\", "[\\"}) {
    INFO(expression);
    const std::string message = message_of([&] { translate_oniguruma(expression, "w"); });
    CHECK(message.starts_with("w: \""));
    CHECK(message.ends_with("of the regular expression " + expression + " is not supported"));
  }
}

TEST_CASE("oniguruma: literal text is escaped") {
  CHECK(escape_literal("a.b(é") == "a\\.b\\(é");
}

TEST_CASE("normalizer: normal forms and lower case") {
  const auto normalize = [](const json& normalizer, std::string_view text) {
    std::string storage;
    return std::string(TextNormalizer::parse(&normalizer, "normalizer").apply(text, storage));
  };
  CHECK(normalize({{"type", "NFC"}}, "e\u0301 ﬁ\u212B") == "é ﬁÅ");
  CHECK(normalize({{"type", "NFD"}}, "éﬁ") == "e\u0301ﬁ");
  CHECK(normalize({{"type", "NFKC"}}, "e\u0301ﬁ½") == "éfi1\u20442");
  CHECK(normalize({{"type", "NFKD"}}, "éﬁ") == "e\u0301fi");
  CHECK(normalize({{"type", "Lowercase"}}, "ÀΣ\u0130ẞZ") == "àσi\u0307ßz");
  CHECK(normalize({{"type", "Sequence"}, {"normalizers", {{{"type", "NFD"}}, {{"type", "Lowercase"}}}}}, "ÉA") == "e\u0301a");
  CHECK(normalize({{"type", "NFC"}}, std::string_view("a\0e\u0301", 5)) == std::string("a\0é", 4));
}

TEST_CASE("normalizer: BERT's, SentencePiece's and small ones") {
  const auto normalize = [](const json& normalizer, std::string_view text) {
    std::string storage;
    return std::string(TextNormalizer::parse(&normalizer, "normalizer").apply(text, storage));
  };
  CHECK(normalize({{"type", "Nmt"}}, "a\x01" "b\x0B" "c\td\u200Be") == "abc d e");
  CHECK(normalize({{"type", "Strip"}, {"strip_left", true}, {"strip_right", false}}, " a ") == "a ");
  CHECK(normalize({{"type", "BertNormalizer"}}, std::string_view("Ab\0é中\u00ADc\u3000", 14)) == "abe 中 c ");
  CHECK(normalize({{"type", "BertNormalizer"}, {"lowercase", false}, {"handle_chinese_chars", false}}, "É中\x01") == "É中");
  CHECK(normalize({{"type", "StripAccents"}}, "e\u0301é\u0903") == "eé");
  CHECK(normalize({{"type", "Prepend"}, {"prepend", "▁"}}, "a") == "▁a");
  CHECK(normalize({{"type", "Prepend"}, {"prepend", "▁"}}, "").empty());
  CHECK(normalize({{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", "$1"}}, "a   b c") == "a$1b c");
  CHECK(normalize({{"type", "ByteLevel"}}, "é ") == "Ã©Ġ");
}

TEST_CASE("added tokens: flags") {
  const auto encode = [](json flags, const std::string& text) {
    json file = small_tokenizer();
    flags.update({{"id", 260}, {"content", "<M>"}});
    file["added_tokens"].push_back(flags);
    file["normalizer"] = {{"type", "Lowercase"}};
    return read_tokenizer(file).encode(text, SpecialTokens::omit);
  };
  using Ids = std::vector<int32_t>;
  CHECK(encode({{"normalized", false}}, "a <M><m>") == Ids{'a', ' ', 260, '<', 'm', '>'});
  CHECK(encode({{"normalized", true}}, "<M><m>") == Ids{260, 260});
  CHECK(encode({{"lstrip", true}}, "a \u3000<M> b") == Ids{'a', 260, ' ', 'b'});
  CHECK(encode({{"rstrip", true}}, "a <M> \n") == Ids{'a', ' ', 260});
  CHECK(encode({{"single_word", true}}, "<M>a <M>.") == Ids{'<', 'm', '>', 'a', ' ', 260, '.'});
  CHECK(encode({{"single_word", true}}, "_<M>") == Ids{'_', '<', 'm', '>'});
  CHECK(encode({}, "<M<|end|><M>") == Ids{'<', 'm', 259, 260});
}
