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

TEST_CASE("pre-tokenizer: scripts") {
  const auto words = [](const std::string& text) { return split({{"type", "UnicodeScripts"}}, text); };
  CHECK(words("a  б1") == Words{"a  ", "б", "1"});
  CHECK(words("ー漢かカa") == Words{"ー漢かカ", "a"});
  CHECK(words("a\u0301б\u0301") == Words{"a", "\u0301", "б", "\u0301"});
  CHECK(words(" a") == Words{"a"});
  CHECK(words(" ").empty());
  CHECK(words("a\u0378б") == Words{"a\u0378", "б"});  // not assigned
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
  CHECK(translate(R"(\w[\w-]\d\v)") == R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xB2\xB3\xB9\xBC-\xBE][\p{Alphabetic}\p{M}\p{Nd}\p{Pc}-]\p{Nd}\x0B)");
  CHECK(translate(R"(^a$)") == R"((?m:^)a(?m:$))");
  CHECK(translate(R"([^(\s|[.,]x])") == R"([^(\p{White_Space}|.,x])");
  CHECK(translate(R"(\p{Han}\P{Lu}\p{^N})") == R"(\p{sc:Han}\P{Lu}\p{^N})");
  CHECK(translate(R"(a{,3}b{2}c{1,}?{x)") == R"(a{0,3}b{2}c{1,}?\{x)");
  CHECK(translate(R"([\p{L}&&[^\p{Han}]]+)") == R"((?:(?=[\p{L}])[^\p{sc:Han}])+)");
  CHECK(translate(R"([^a[^\d]])") == R"((?:(?!(?:[a]|[^\p{Nd}]))(?s:.)))");
  CHECK(translate(R"((?i)[[:alpha:]](?<word>\h))") == R"((?i)[\p{Alphabetic}]([0-9A-Fa-f]))");
  CHECK(translate(R"(\u00E9\x41\x{1F600}\'\é)") == R"(\x{00E9}\x{41}\x{1F600}\'é)");
}

TEST_CASE("oniguruma: what may mean something else is refused") {
  for (const std::string expression : {"\\X", "\\K", "\\G", "\\1", "\\k<a>", "\\Q", "(?<1>b)", "(?<a", "(?m:a)", "a(?i)b", "(?#a)", "(*FAIL)", "[[:alphabet:]]", "[a&&]", "[&&a]", "[a-[b]]", "[[a]-z]", "(?i)[a&&b]", "(?i:[a[^b]])", "(?i:mass)", "(?i)Fine",
                                       "[]a]", "[a", "[[a]", "[\\b]", "[\\R]", "[\\A]", "a{2}?", "a{1,2}+", "\\pL", "\\p{}", "\\p{L", "\\p{Script=Han}", "\\xE9", "\\x4", "\\x{}", "\\u12", "\\", "[\\"}) {
    INFO(expression);
    const std::string message = message_of([&] { translate_oniguruma(expression, "w"); });
    CHECK(message.starts_with("w: \""));
    CHECK(message.ends_with("of the regular expression " + expression + " is not supported"));
  }
}

TEST_CASE("oniguruma: words are cut as Hugging Face's library cuts them") {
  const auto words = [](const char* expression, const std::string& text) { return split(split_step("Regex", expression, "Isolated"), text); };
  CHECK(words(R"(\w+)", "a² ¼b") == Words{"a²", " ", "¼b"});    // Latin-1's own table
  CHECK(words(R"([\w]+)", "a² ¼b") == Words{"a", "² ¼", "b"});  // the table of the class
  CHECK(words(R"(\b)", "ab cd. e²x") == Words{"ab", " ", "cd", ". ", "e²x"});
  CHECK(words(R"(\B)", "ab cd.") == Words{"a", "b c", "d."});
  CHECK(words(R"(\ba)", "a ba") == Words{"a", " ba"});
  CHECK(words("(?i)'s|b", "A'SB") == Words{"A", "'S", "B"});
  CHECK(words("(?<w>a)(b)", "abab") == Words{"ab", "ab"});
  CHECK(words(R"(b\Z)", "ab\n") == Words{"a", "b", "\n"});
  CHECK(words(R"(b\Z)", "ab\n\n") == Words{"ab\n\n"});
  CHECK(words(R"(\R)", "a\r\nb\x0B\u0085\u2028") == Words{"a", "\r\n", "b", "\x0B", "\u0085", "\u2028"});
  CHECK(words("[[:alpha:]-]", "a-1") == Words{"a", "-", "1"});
  CHECK(words("[[:punct:]]+", "a$.b") == Words{"a", "$.", "b"});
  CHECK(words(R"(\p{Punct}+)", "a$.b") == Words{"a$", ".", "b"});
  CHECK(words(R"(\p{^Alpha})", "a1") == Words{"a", "1"});
  CHECK(words("[a-z[^\\s\\p{L}]]+", "ab1Ä .") == Words{"ab1", "Ä ", "."});
  CHECK(words(R"([\p{L}&&[^\p{Han}]5]+)", "ab5漢c") == Words{"ab", "5漢", "c"});
  CHECK(words(R"([\w&&[^\d]]+|\h)", "ab1g²") == Words{"ab", "1", "g", "²"});
}

TEST_CASE("pre-tokenizer: empty matches cut too") {
  const auto words = [](const char* expression, const char* behavior, bool invert, const std::string& text) { return split(split_step("Regex", expression, behavior, invert), text); };
  for (const bool invert : {false, true}) {
    CHECK(words("x*", "Isolated", invert, "abxxc") == Words{"a", "b", "xx", "c"});
    CHECK(words("x*", "Contiguous", invert, "abxxc") == Words{"a", "b", "xx", "c"});
    CHECK(words("(?=b)|c", "Isolated", invert, "abcb") == Words{"a", "b", "c", "b"});
  }
  CHECK(words("x*", "Removed", false, "abxxc") == Words{"a", "b", "c"});
  CHECK(words("x*", "Removed", true, "abxxc") == Words{"xx"});
  CHECK(words("x*", "MergedWithPrevious", false, "abxxc") == Words{"a", "bxx", "c"});
  CHECK(words("x*", "MergedWithPrevious", true, "abxxc") == Words{"a", "b", "xxc"});
  CHECK(words("x*", "MergedWithNext", false, "abxxc") == Words{"a", "b", "xxc"});
  CHECK(words("x*", "MergedWithNext", true, "abxxc") == Words{"a", "bxx", "c"});
  CHECK(words("^", "Isolated", false, "a\nb\n") == Words{"a\n", "b\n"});
  CHECK(words("$", "Isolated", false, "é\nb\n") == Words{"é", "\nb", "\n"});
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
  CHECK(normalize({{"type", "BertNormalizer"}}, "a\x0B" "b\x0C" "c\u0085" "d\te\u2028f") == "abcd e f");
  CHECK(normalize({{"type", "BertNormalizer"}, {"lowercase", false}, {"handle_chinese_chars", false}}, "É中\x01") == "É中");
  CHECK(normalize({{"type", "StripAccents"}}, "e\u0301é\u0903") == "eé");
  CHECK(normalize({{"type", "Prepend"}, {"prepend", "▁"}}, "a") == "▁a");
  CHECK(normalize({{"type", "Prepend"}, {"prepend", "▁"}}, "").empty());
  CHECK(normalize({{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", "$1"}}, "a   b c") == "a$1b c");
  const auto replace_all = [](const char* kind, const char* pattern) { return json{{"type", "Replace"}, {"pattern", {{kind, pattern}}}, {"content", "-"}}; };
  CHECK(normalize(replace_all("Regex", "x*"), "axxb é") == "-a-b- -é-");
  CHECK(normalize(replace_all("Regex", "$"), "a\nb\n") == "a-\nb-\n-");
  CHECK(normalize(replace_all("String", ""), "é漢") == "-é-漢-");
  CHECK(normalize(replace_all("String", ""), "").empty());
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

TEST_CASE("added tokens: ids are those that Hugging Face's library gives") {
  using Ids = std::vector<int32_t>;
  const auto encode = [](const json& added, const char* text) {
    json file = small_tokenizer();
    file["post_processor"] = nullptr;
    file["added_tokens"] = added;
    file["model"]["vocab"].erase("b");  // 258 tokens, the last of which has the id 258
    return read_tokenizer(file).encode(text, SpecialTokens::omit);
  };
  const auto token = [](int id, const char* content) { return json{{"id", id}, {"content", content}, {"special", true}}; };
  CHECK(encode({token(300, "<x>"), token(5, "<y>")}, "a<x><y>") == Ids{'a', 258, 259});  // the next free ids by count, whatever is said
  CHECK(encode({token(300, "the"), token(7, ""), token(8, "<x>"), token(9, "<x>")}, "the<x>") == Ids{257, 258});
}

TEST_CASE("models without a type are told by their fields") {
  using Ids = std::vector<int32_t>;
  const auto encode = [](const json& model, const char* text) { return read_tokenizer({{"version", "1.0"}, {"model", model}}).encode(text, SpecialTokens::omit); };
  CHECK(encode({{"vocab", json::parse(R"([["<unk>", 0], ["a", -1], ["b", -1.5], ["ab", -2]])")}, {"unk_id", 0}}, "abb") == Ids{3, 2});
  const json words = {{"[UNK]", 0}, {"a", 1}, {"##b", 2}};
  CHECK(encode({{"vocab", words}, {"unk_token", "[UNK]"}, {"continuing_subword_prefix", "##"}, {"max_input_chars_per_word", 100}}, "ab") == Ids{1, 2});
  CHECK(encode({{"vocab", words}, {"unk_token", "[UNK]"}}, "ab") == Ids{0});
  CHECK(encode({{"vocab", words}, {"unk_token", "[UNK]"}}, "a") == Ids{1});
  // Of equal pieces the last counts.
  CHECK(encode({{"type", "Unigram"}, {"unk_id", 0}, {"vocab", json::parse(R"([["<unk>", 0], ["a", -1], ["b", -1.5], ["ab", -3], ["a", -3]])")}}, "abab") == Ids{3, 3});
}
