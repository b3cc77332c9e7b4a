// Tests that a tokenizer.model which is damaged, or says what llmc does not do, is refused by name.
#include "formats/sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "formats/gguf_tokenizer.h"
#include "tests/calib/small_tokenizer.h"

using namespace llmc;

namespace {

/// A field of a protocol buffer: with text or a message, or an integer.
std::string field(int number, const std::string& contents) {
  std::string size;
  for (size_t rest = contents.size(); size.empty() || rest > 0; rest >>= 7) size += static_cast<char>((rest & 0x7F) | (rest > 0x7F ? 0x80 : 0));
  return std::string(1, static_cast<char>(number << 3 | 2)) + size + contents;
}
std::string field(int number, char value) { return std::string(1, static_cast<char>(number << 3)) + value; }
std::string far_field(int number, char value) { return {static_cast<char>((number << 3 & 0x7F) | 0x80), static_cast<char>(number >> 4), value}; }
std::string score(const std::string& bits) { return std::string(1, static_cast<char>(2 << 3 | 5)) + bits; }

std::string piece(const std::string& text, char type = 1) { return field(1, field(1, text) + score(std::string("\0\0\0\xBF", 4)) + field(3, type)); }
const std::string bpe = field(2, field(3, char{2}));

/// Compiled rules, one that replaces so many times 'a'. Bases of its trie (Darts) are 0x100 apart: 'a' leads from one to the unit 0x60 behind it, and
/// that to the next base; the last is the leaf.
std::string rule_for_letters(uint32_t letters, const std::string& replacement) {
  const auto base = [](uint32_t depth) { return 0x100 * depth + 1; };
  std::vector<uint32_t> units(base(letters + 1));  // where nothing leads on
  units[0] = base(0) << 10;
  for (uint32_t i = 0; i < letters; ++i) units[base(i) ^ 'a'] = 'a' | (i + 1 == letters ? 1 << 8 : 0) | (base(i) ^ 'a' ^ base(i + 1)) << 10;
  units[base(letters)] = uint32_t{1} << 31;
  const auto size = static_cast<uint32_t>(4 * units.size());
  return std::string(reinterpret_cast<const char*>(&size), 4) + std::string(reinterpret_cast<const char*>(units.data()), size) + replacement + '\0';
}

std::string refusal_of_model(const std::string& file) {
  return message_of([&] { SentencePieceModel::parse(file, "t.model").make_tokenizer(std::nullopt, "t.model"); });
}

/// Of what the tokenizer that a file says is refused for.
std::string refusal_of_unigram(const std::string& file) {
  return message_of([&] { Tokenizer::parse(SentencePieceModel::parse(file, "t.model").make_tokenizer(std::nullopt, "t.model").dump(), "t"); });
}

}  // namespace

TEST_CASE("tokenizer.model: BPE by score, with bytes for what no piece holds") {
  const std::string file = piece("<unk>", 2) + piece("<s>", 3) + piece("a") + piece("b") + piece("ab") + piece("\xE2\x96\x81") + field(2, field(3, char{2}) + far_field(35, 1)) + field(3, field(4, char{0}));
  const SentencePieceModel model = SentencePieceModel::parse(file, "t.model");
  CHECK(model.pieces.size() == 6);
  CHECK(model.pieces[2].score == -0.5);
  CHECK(model.falls_back_to_bytes);
  CHECK_FALSE(model.removes_spaces);
  const Tokenizer tokenizer = read_tokenizer(model.make_tokenizer("<s>", "t.model"));
  CHECK(tokenizer.encode("ab ba?", SpecialTokens::add) == std::vector<int32_t>{1, 5, 4, 5, 3, 2, 0});
  CHECK(tokenizer.decode(std::vector<int32_t>{1, 5, 4}) == "<s> ab");
  CHECK(tokenizer.first_token() == 1);
}

TEST_CASE("tokenizer.model: user-defined pieces are found first and stay whole") {
  const std::string mark = "\xE2\x96\x81";
  const auto encode = [](const std::string& file, const char* text) { return read_tokenizer(SentencePieceModel::parse(file, "t.model").make_tokenizer(std::nullopt, "t.model")).encode(text, SpecialTokens::add); };
  const std::string pieces = piece("<unk>", 2) + piece("bc", 4) + piece("a") + piece("b") + piece("c") + piece("ab") + piece(mark) + piece("bcd", 4) + piece(mark + "a") + piece("x", 5);
  for (const char kind : {char{1}, char{2}}) {
    const std::string file = pieces + field(2, field(3, kind));
    CHECK(encode(file, "abc") == std::vector<int32_t>{8, 1});       // not ab and c
    CHECK(encode(file, " bcd  bc") == std::vector<int32_t>{6, 7, 6, 1});  // the longest; one mark before the text, none after a symbol
    CHECK(encode(file, "xx a") == std::vector<int32_t>{6, 0, 8});
  }
}

TEST_CASE("tokenizer.model: words, characters, and the space at the end") {
  const std::string mark = "\xE2\x96\x81";
  const auto encode = [](const std::string& file, const char* text) { return read_tokenizer(SentencePieceModel::parse(file, "t.model").make_tokenizer(std::nullopt, "t.model")).encode(text, SpecialTokens::add); };
  const std::string pieces = piece("<unk>", 2) + piece("a") + piece("b") + piece(mark) + piece(mark + "ab");
  CHECK(encode(pieces + field(2, field(3, char{3})), "ab  x y ab") == std::vector<int32_t>{4, 0, 4});
  CHECK(encode(pieces + field(2, field(3, char{4})), "ab x") == std::vector<int32_t>{3, 1, 2, 3, 0});
  const std::string suffix = piece("<unk>", 2) + piece("a") + piece("b" + mark) + piece(mark) + field(2, field(3, char{1}) + far_field(24, 1));
  CHECK(encode(suffix, " ab a") == std::vector<int32_t>{1, 2, 1, 3});
  CHECK(read_tokenizer(SentencePieceModel::parse(suffix, "t.model").make_tokenizer(std::nullopt, "t.model")).decode(std::vector<int32_t>{1, 2, 1, 3}) == "ab a");
}

TEST_CASE("tokenizer.model: scores are added in float32, and bytes are not text") {
  std::string pieces = piece("<unk>", 2) + piece("a");
  for (int byte = 0; byte < 256; ++byte) pieces += piece(TokenModel::byte_token(static_cast<unsigned char>(byte)), 6);
  const Tokenizer tokenizer = read_tokenizer(SentencePieceModel::parse(pieces + field(2, field(3, char{1}) + far_field(35, 1)) + field(3, field(3, char{0})), "t.model").make_tokenizer(std::nullopt, "t.model"));
  CHECK(tokenizer.encode("a<0x41>", SpecialTokens::add) == std::vector<int32_t>{1, 2 + '<', 2 + '0', 2 + 'x', 2 + '4', 2 + '1', 2 + '>'});
}

TEST_CASE("tokenizer.model: sums of scores start again before float32 swallows their differences") {
  const auto scored = [](const std::string& text, float value) {
    std::string bits(4, '\0');
    std::memcpy(bits.data(), &value, 4);
    return field(1, field(1, text) + score(bits) + field(3, char{1}));
  };
  // "ab" is the less probable by a hundredth, which sums beyond 262,144, of steps of 1/32, do not hold, and the first that is found.
  const std::string file = piece("<unk>", 2) + scored("a", -5) + scored("b", -5) + scored("ab", -10.01f) + scored("c", -100) + scored("\xE2\x96\x81", -1) + field(2, field(3, char{1}));
  const Tokenizer tokenizer = read_tokenizer(SentencePieceModel::parse(file, "t.model").make_tokenizer(std::nullopt, "t.model"));
  for (const size_t before : {1, 900, 5000}) {
    const std::vector<int32_t> ids = tokenizer.encode(std::string(before, 'c') + "ab", SpecialTokens::add);
    CHECK(ids.size() == before + 3);
    CHECK(std::vector(ids.end() - 2, ids.end()) == std::vector<int32_t>{1, 2});
  }
}

TEST_CASE("tokenizer.model: what it may not say is named") {
  CHECK(refusal_of_model("") == "t.model: holds no pieces");
  CHECK(refusal_of_model(piece("a", 7)) == "t.model: piece 0: expected a type from 1 to 6, found 7");
  CHECK(refusal_of_model(piece("a") + piece("")) == "t.model: piece 1: has no text");
  CHECK(refusal_of_model(piece(std::string(1025, 'a')) + bpe) == "t.model: piece 0: has 1025 bytes; at most 1024 are supported");
  CHECK(refusal_of_model(piece("\xFF")) == "t.model: piece 0: byte 0 (0xFF) is not valid UTF-8");
  CHECK(refusal_of_model(field(1, field(1, "a") + score("\xFF\xFF\xFF\x7F"))) == "t.model: piece 0: score nan is not finite");
  CHECK(refusal_of_model(piece("a") + field(2, field(3, char{5}))) == "t.model: trainer_spec: model_type 5 is not supported (known: 1, unigram; 2, BPE; 3, words; 4, characters)");
  CHECK(refusal_of_model(piece("a") + field(3, field(5, char{0}))) == "t.model: normalizer_spec: escape_whitespaces false is not supported");
  CHECK(refusal_of_model(bpe + piece("a") + piece("a")) == "t.model: piece \"a\" is there twice");
  CHECK(refusal_of_model(piece(std::string(1 << 20, 'a'))) == "t.model: piece 0: has 1048576 bytes; at most 1024 are supported");  // google/sentencepiece, issue 1263
  CHECK(refusal_of_unigram(piece("a")) == "t: model: has no piece for what is unknown");
  CHECK(refusal_of_unigram(piece("<unk>", 2) + piece("a") + field(2, far_field(35, 1))) == "t: model: has no piece <0x00>, but falls back to bytes");
}

TEST_CASE("tokenizer.model: pieces that can be made in very many ways are refused") {
  std::string file = bpe + piece("<unk>", 2);
  for (int length = 1; length <= 1024; ++length) file += piece(std::string(length, 'a'));
  check_contains(refusal_of_model(file), "t.model: its pieces can be made of others in more than 2097152 ways, or ways of 67108864 bytes");
}

TEST_CASE("tokenizer.model: a rule replaces at most 1024 bytes") {
  const auto count = [](uint32_t letters) {
    const std::string file = bpe + piece("<unk>", 2) + piece("a") + piece("b") + field(3, field(2, rule_for_letters(letters, "b")));
    return read_tokenizer(SentencePieceModel::parse(file, "t.model").make_tokenizer(std::nullopt, "t.model")).encode(std::string(letters, 'a'), SpecialTokens::omit).size();
  };
  CHECK(count(3) == 2);  // one for the space in front
  CHECK(count(1024) == 2);
  CHECK(count(1025) == 1026);
}

TEST_CASE("tokenizer.model: replacements are counted while they are made") {
  const SentencePieceModel model = SentencePieceModel::parse(bpe + piece("<unk>", 2) + piece("a") + field(3, field(2, rule_for_letters(1, std::string(300'000, 'b')))), "t.model");
  for (const auto reader : {SentencePieceModel::Reader::llmc, SentencePieceModel::Reader::transformers}) {
    const Tokenizer tokenizer = read_tokenizer(model.make_tokenizer(std::nullopt, "t.model", reader));
    CHECK(message_of([&] { tokenizer.encode(std::string(1'000'000, 'a'), SpecialTokens::omit); }) == "normalizer: makes more than 64065536 bytes of a text");  // of 300 GB
  }
}

TEST_CASE("tokenizer.model: a file that is cut or damaged is refused with the place") {
  CHECK(refusal_of_model("\x0A\x05xy") == "t.model: byte 2: the message ends too soon");
  CHECK(refusal_of_model("\x0B") == "t.model: byte 1: a field of an unknown kind");
  CHECK(refusal_of_model("\x08") == "t.model: byte 1: the message ends too soon");
  CHECK(refusal_of_model(std::string(11, '\xFF')) == "t.model: byte 10: an integer has more than 64 bits");
  const std::string whole = bpe + piece("a") + piece("b");
  for (size_t size = 0; size < whole.size(); ++size) {
    try {
      SentencePieceModel::parse(whole.substr(0, size), "t").make_tokenizer(std::nullopt, "t");
    } catch (const Error& problem) {
      CHECK(problem.kind() == ErrorKind::input);
    }
  }
}

TEST_CASE("GGUF: a SentencePiece vocabulary is read as llama.cpp reads it") {
  GgufMetadata metadata("a.gguf");
  metadata.set("tokenizer.ggml.model", gguf_string("llama"));
  metadata.set("tokenizer.ggml.tokens", gguf_strings({"<unk>", "<s>", "\xE2\x96\x81", "a", "b", "ab", "<0x21>"}));
  metadata.set("tokenizer.ggml.token_type", gguf_i32s({2, 3, 1, 1, 1, 1, 6}));
  const auto read = [&] { return read_tokenizer(nlohmann::json::parse(find_gguf_tokenizer_file(metadata, "tokenizer.json").value())); };
  CHECK(message_of(read) == "a.gguf: key tokenizer.ggml.bos_token_id: is missing, but texts are to start with it");
  metadata.set("tokenizer.ggml.bos_token_id", gguf_u32(1));
  CHECK(message_of(read) == "a.gguf: key tokenizer.ggml.scores: expected 7 numbers of type f32, found none");
  const auto set_scores = [&](std::vector<float> scores) {
    const auto bytes = std::as_bytes(std::span(scores));
    metadata.set("tokenizer.ggml.scores", {GgufValueType::array, GgufArray{GgufValueType::f32, std::vector<std::byte>(bytes.begin(), bytes.end())}});
  };
  set_scores({0, 0, -1, -2, -3, -4});
  CHECK(message_of(read) == "a.gguf: key tokenizer.ggml.scores: expected 7 numbers of type f32, found 6");
  set_scores({0, 0, -1, -2, -3, -4, NAN});
  CHECK(message_of(read) == "a.gguf: key tokenizer.ggml.scores: expected 7 numbers of type f32, found nan");
  set_scores({0, 0, -1, -2, -3, -4, 0});
  CHECK(read().encode("ab b!", SpecialTokens::add) == std::vector<int32_t>{1, 2, 5, 2, 4, 6});
  metadata.set("tokenizer.ggml.add_space_prefix", gguf_bool(false));
  metadata.set("tokenizer.ggml.add_bos_token", gguf_bool(false));
  CHECK(read().encode("ab b", SpecialTokens::add) == std::vector<int32_t>{5, 2, 4});
}
