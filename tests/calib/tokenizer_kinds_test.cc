// Tests tokenizers of every kind in use against what Hugging Face's library answered (tests/golden/make_tokenizers.py): texts in many
// scripts, 10,000 random texts, and the calibration text.
#include <fmt/format.h>

#include <array>
#include <filesystem>

#include "calib/bundled_text.h"
#include "core/mapped_file.h"
#include "core/utf8.h"
#include "formats/sentencepiece_model.h"
#include "tests/calib/golden_tokenizers.h"
#include "tests/calib/small_tokenizer.h"

using namespace llmc;
using nlohmann::json;

namespace {

/// splitmix64 (Steele, Lea, Flood 2014), as in make_tokenizers.py.
class SplitMix {
 public:
  explicit SplitMix(uint64_t seed) : state_(seed) {}
  uint64_t below(uint64_t most) {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (z ^ z >> 31) % most;
  }

 private:
  uint64_t state_;
};

std::vector<std::string> random_texts(const json& texts) {
  const auto often = texts.at("often").get<std::vector<std::string>>();
  const auto ranges = texts.at("ranges").get<std::vector<std::array<uint32_t, 2>>>();
  SplitMix random(1);
  std::vector<std::string> result(10'000);
  for (std::string& text : result)
    for (uint64_t left = random.below(24); left > 0; --left) {
      const uint64_t kind = random.below(8);
      if (kind < 3) {
        text += static_cast<char>('a' + random.below(26));
      } else if (kind < 5) {
        text += often[random.below(often.size())];
      } else {
        const auto [first, last] = ranges[random.below(ranges.size())];
        append_code_point(static_cast<char32_t>(first + random.below(last - first + 1)), text);
      }
    }
  return result;
}

/// FNV-1a.
class Hash {
 public:
  void add(const Ids& ids) {
    for (int32_t id : ids) add(id);
    add(-1);
  }
  std::string text() const { return fmt::format("{:016x}", value_); }

 private:
  void add(int32_t id) {
    for (int byte = 0; byte < 4; ++byte) value_ = (value_ ^ (static_cast<uint32_t>(id) >> 8 * byte & 0xFF)) * 0x100000001B3u;
  }
  uint64_t value_ = 0xCBF29CE484222325u;
};

/// The numbers of the groups of random texts whose hashes differ; none should.
std::vector<size_t> compare_random(const Tokenizer& tokenizer, const std::vector<std::string>& texts, const json& hashes) {
  std::vector<size_t> wrong;
  const size_t group = texts.size() / hashes.size();
  for (size_t g = 0; g < hashes.size(); ++g) {
    Hash hash;
    for (size_t i = g * group; i < (g + 1) * group; ++i) hash.add(tokenizer.encode(texts[i], SpecialTokens::omit));
    if (hash.text() != hashes[g].get<std::string>()) wrong.push_back(g);
  }
  return wrong;
}

std::vector<size_t> compare_corpus(const Tokenizer& tokenizer, const json& hashes) {
  constexpr size_t piece = 40'000;  // characters, all of them ASCII or not: the text is cut as Python cuts it
  std::string_view rest = bundled_calibration_text();
  std::vector<size_t> wrong;
  for (size_t p = 0; !rest.empty(); ++p) {
    size_t end = 0;
    for (size_t i = 0; i < piece && end < rest.size(); ++i) end += code_point_at(rest, end).bytes;
    Hash hash;
    hash.add(tokenizer.encode(rest.substr(0, end), SpecialTokens::omit));
    rest.remove_prefix(end);
    if (p >= hashes.size() || hash.text() != hashes[p].get<std::string>()) wrong.push_back(p);
  }
  return wrong;
}

Tokenizer load_kind(const std::filesystem::path& folder) {
  const std::string name = (folder / "tokenizer.json").string(), model = (folder / "tokenizer.model").string();
  if (std::filesystem::exists(name)) return Tokenizer::parse(read_text_file(name), name);
  return Tokenizer::parse(SentencePieceModel::parse(read_text_file(model), model).make_tokenizer(std::nullopt, model).dump(), model);
}

/// A text without the strings of "dropped".
std::string prepare(std::string text, const json& dropped) {
  for (const std::string part : dropped)
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos;) text.erase(at, part.size());
  return text;
}

}  // namespace

TEST_CASE("tokenizer kinds: ids and texts are Hugging Face's and SentencePiece's") {
  const json texts = read_json(golden / "texts.json");
  const auto random = random_texts(texts);
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden)) {
    const auto& folder = entry.path();
    if (!std::filesystem::exists(folder / "expected.json")) continue;
    ++count;
    INFO(folder.filename().string());
    const Tokenizer tokenizer = load_kind(folder);
    const json expected = read_json(folder / "expected.json"), &dropped = expected.at("dropped");
    for (size_t i = 0; i < texts.at("texts").size(); ++i) {
      const std::string text = prepare(texts.at("texts")[i], dropped);
      INFO(text);
      const Ids ids = expected.at("ids")[i].get<Ids>();
      CHECK(tokenizer.encode(text, SpecialTokens::add) == ids);
      if (dropped.empty()) CHECK(tokenizer.decode(ids) == expected.at("decoded")[i].get<std::string>());
    }
    auto prepared = random;
    for (std::string& text : prepared) text = prepare(std::move(text), dropped);
    CHECK(compare_random(tokenizer, prepared, expected.at("random")) == std::vector<size_t>());
    if (!expected.at("text").empty()) CHECK(compare_corpus(tokenizer, expected.at("text")) == std::vector<size_t>());
  }
  CHECK(count == 22);
}
