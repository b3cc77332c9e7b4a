// Tests decoders one by one, with what Hugging Face tokenizers 0.23.3 answers.
#include "calib/token_decoder.h"

#include "tests/calib/small_tokenizer.h"

using namespace llmc;
using nlohmann::json;

namespace {

using Tokens = std::vector<std::string>;

TokenDecoder read(const json& decoder) { return TokenDecoder::parse(&decoder, false, "decoder"); }
std::string decode(const json& decoder, Tokens tokens) { return read(decoder).decode(std::move(tokens)); }
json sequence(json first, json second) { return {{"type", "Sequence"}, {"decoders", {first, second}}}; }

}  // namespace

TEST_CASE("decoders: CTC drops repetitions, padding and marks of words") {
  const json ctc = {{"type", "CTC"}, {"pad_token", "<pad>"}, {"word_delimiter_token", "|"}, {"cleanup", true}};
  CHECK(decode(ctc, {"<pad>", "<pad>", "h", "e", "e", "l", "l", "<pad>", "l", "o", "o", "o", "<pad>", "|", "|", "a", " ."}) == "hello a.");
  CHECK(decode({{"type", "CTC"}, {"cleanup", false}}, {"h", "h", "|", "<pad>a"}) == "h|a");
}

TEST_CASE("decoders: WordPiece joins pieces and puts spaces between words") {
  CHECK(decode({{"type", "WordPiece"}}, {"do", "not", "##s", "##", "n't", ".", "a", " ' ", "b"}) == "do notsn't. a ' b");
  CHECK(decode({{"type", "WordPiece"}, {"cleanup", false}}, {"##a", "b", "##c", "."}) == "##a bc .");
}

TEST_CASE("decoders: byte tokens become text, or U+FFFD where they are none") {
  const json bytes = sequence({{"type", "ByteFallback"}}, {{"type", "Fuse"}});
  CHECK(decode(bytes, {"a", "<0xC3>", "<0xA9>", "b"}) == "aéb");
  CHECK(decode(bytes, {"a", "<0xC3>", "<0xA9>", "<0xC3>", "b", "<0xa9>", "<0xG1>", "<0x41>"}) == "a\uFFFD\uFFFD\uFFFDb\uFFFD<0xG1>A");
}

TEST_CASE("decoders: spaces, suffixes and replacements") {
  CHECK(decode({{"type", "Strip"}, {"content", "_"}, {"start", 2}, {"stop", 1}}, {"___a__", "x", "b_"}) == "_a_xb");
  CHECK(decode({{"type", "Metaspace"}, {"replacement", "▁"}}, {"▁a▁", "▁b", "c▁d"}) == "a bc d");
  CHECK(decode({{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "never"}}, {"▁a▁", "▁b", "c▁d"}) == " a  bc d");
  CHECK(decode({{"type", "BPEDecoder"}, {"suffix", "</w>"}}, {"a", "b</w>", "c</w>"}) == "ab c");
  CHECK(decode(sequence({{"type", "Replace"}, {"pattern", {{"Regex", "a+"}}}, {"content", "x"}}, {{"type", "Fuse"}}), {"aab", "caa"}) == "xbcx");
  CHECK(TokenDecoder::parse(nullptr, false, "decoder").decode({"a", "b", "c"}) == "a b c");
  CHECK(TokenDecoder::parse(nullptr, true, "decoder").decode({"a", "Ġb"}) == "a b");
}

TEST_CASE("decoders: the bytes of one token") {
  CHECK(read({{"type", "WordPiece"}}).count_bytes("##ing") == 3);
  CHECK(read({{"type", "WordPiece"}}).count_bytes("the") == 4);  // and the space before it
  CHECK(read({{"type", "ByteLevel"}}).count_bytes("ĠÃ©") == 3);
  CHECK(read(sequence({{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}}, {{"type", "ByteFallback"}})).count_bytes("▁the") == 4);
  CHECK(read({{"type", "ByteFallback"}}).count_bytes("<0xC3>") == 1);
}
