#include "formats/gguf_pre_tokenizer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

namespace {

using Kind = PreTokenizerPart::Kind;

const PreTokenizerPart digit{Kind::digit, {}}, number{Kind::number, {}}, punctuation{Kind::punctuation, {}}, gpt2{Kind::gpt2, {}}, bytes{Kind::bytes, {}};
PreTokenizerPart split(const char* regex) { return {Kind::split, regex}; }

// Names, aliases and meanings: llama-vocab.cpp of llama.cpp (as in llama-cpp-python 0.3.36). Regular expressions are those of the
// tokenizer.json files of the models with these names; llama.cpp's are adapted to what its own matcher knows.
constexpr const char* llama3_words = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2_words = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen35_words = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* minicpm_words = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* tekken_words = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* gpt4o_words = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* deepseek_words = R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kana_and_han = "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+";
constexpr const char* han_and_hangul = "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+";
constexpr const char* bloom_words = " ?[^(\\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+";

/// Other ways in which a tokenizer.json says the same.
const std::vector<std::pair<std::string_view, PreTokenizerPart>>& aliases() {
  static const std::vector<std::pair<std::string_view, PreTokenizerPart>> list = {
      {R"(\p{N})", digit},
      {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", gpt2},
      {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", gpt2},
      {" ?[^(\\s|[.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C])]+", split(bloom_words)},
      {R"([!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)", split(deepseek_words)},
  };
  return list;
}

const std::vector<GgufPreTokenizer>& list() {
  static const std::vector<GgufPreTokenizer> rows = {
      {.names = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "modern-bert", "exaone4"}, .parts = {gpt2, bytes}},
      {.names = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"}, .parts = {digit, gpt2, bytes}},
      {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}, .parts = {split(llama3_words), bytes}, .ignore_merges = true, .adds_bos = true},
      {.names = {"glm4", "glm5"}, .parts = {split(llama3_words), bytes}, .ignore_merges = true},
      {.names = {"smaug-bpe", "dbrx", "chatglm-bpe"}, .parts = {split(llama3_words), bytes}},
      {.names = {"qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan", "solar-open", "kormo", "f2llmv2", "grok-2"}, .parts = {split(qwen2_words), bytes}},
      {.names = {"qwen35"}, .parts = {split(qwen35_words), bytes}},
      {.names = {"minicpm5"}, .parts = {split(R"(\p{N}{1,3})"), split(minicpm_words), bytes}, .ignore_merges = true},
      {.names = {"tekken"}, .parts = {split(tekken_words), bytes}, .ignore_merges = true, .adds_bos = true},
      {.names = {"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, .parts = {split(gpt4o_words), bytes}},
      {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"}, .parts = {split(R"(\p{N}{1,3})"), split(kana_and_han), split(deepseek_words), bytes}},
      {.names = {"deepseek-coder"}, .parts = {split("[\r\n]"), split(R"(\s?\p{L}+)"), split(R"(\s?\p{P}+)"), split(han_and_hangul), digit, bytes}},
      {.names = {"falcon"}, .parts = {punctuation, gpt2, bytes, number, split("[0-9][0-9][0-9]")}},
      {.names = {"bloom", "poro-chat", "gpt3-finnish"}, .parts = {split(bloom_words), bytes}},
      {.names = {"viking"}, .parts = {split(bloom_words), digit, bytes}},
  };
  return rows;
}

/// Appends the steps of a pre_tokenizer, those of a Sequence one by one.
void gather(const json& part, std::vector<PreTokenizerPart>& found, const std::string& where) {
  FieldReader fields(part, where);
  const std::string type = fields.get_string("type");
  const auto refuse = [&](const std::string& what) { throw Error(ErrorKind::input, fmt::format("{}: {}: llama.cpp has no name for it", where, what)); };
  if (type == "Sequence") {
    const json* parts = fields.find("pretokenizers");
    if (!parts || !parts->is_array()) throw Error(ErrorKind::input, where + ": field \"pretokenizers\" is missing or not a list");
    for (const json& inner : *parts) gather(inner, found, where);
  } else if (type == "ByteLevel") {
    if (fields.find_bool("add_prefix_space").value_or(true)) refuse("\"ByteLevel\" with add_prefix_space");
    if (fields.find_bool("use_regex").value_or(true)) found.push_back(gpt2);
    found.push_back(bytes);
  } else if (type == "Digits") {
    found.push_back(fields.find_bool("individual_digits").value_or(false) ? digit : number);
  } else if (type == "Punctuation" && fields.find_string("behavior").value_or("Isolated") == "Contiguous") {
    found.push_back(punctuation);
  } else if (type == "Split" && fields.get_string("behavior") == "Isolated" && !fields.find_bool("invert").value_or(false)) {
    const json* pattern = fields.find("pattern");
    const auto expression = pattern ? FieldReader(*pattern, where + ": pattern").find_string("Regex") : std::nullopt;
    if (!expression) refuse("a \"Split\" without \"Regex\"");
    const auto alias = std::ranges::find(aliases(), *expression, [](const auto& entry) { return entry.first; });
    found.push_back(alias != aliases().end() ? alias->second : PreTokenizerPart{Kind::split, *expression});
  } else {
    refuse(fmt::format("\"{}\"", part.dump()));
  }
}

json make_part(const PreTokenizerPart& part) {
  switch (part.kind) {
    case Kind::split: return {{"type", "Split"}, {"pattern", {{"Regex", part.regex}}}, {"behavior", "Isolated"}, {"invert", false}};
    case Kind::digit:
    case Kind::number: return {{"type", "Digits"}, {"individual_digits", part.kind == Kind::digit}};
    case Kind::punctuation: return {{"type", "Punctuation"}, {"behavior", "Contiguous"}};
    case Kind::gpt2:
    case Kind::bytes: break;
  }
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", part.kind == Kind::gpt2}};
}

}  // namespace

const GgufPreTokenizer& get_gguf_pre_tokenizer(const std::string& name, const std::string& where) {
  std::vector<std::string_view> known;
  for (const GgufPreTokenizer& row : list()) {
    if (std::ranges::find(row.names, name) != row.names.end()) return row;
    known.insert(known.end(), row.names.begin(), row.names.end());
  }
  throw Error(ErrorKind::input, fmt::format("{}: key tokenizer.ggml.pre: \"{}\" is not supported (known: {}); give token ids (.npy, .u16, .u32) instead of text", where, name, fmt::join(known, ", ")));
}

const GgufPreTokenizer& match_gguf_pre_tokenizer(const json& pre_tokenizer, bool ignore_merges, const std::string& where) {
  std::vector<PreTokenizerPart> found;
  gather(pre_tokenizer, found, where + ": pre_tokenizer");
  for (const GgufPreTokenizer& row : list())
    if (row.parts == found && row.ignore_merges == ignore_merges) return row;
  throw Error(ErrorKind::input, fmt::format("{}: pre_tokenizer{}: {}: llama.cpp has no name for it that llmc knows", where, ignore_merges ? " with ignore_merges" : "", pre_tokenizer.dump()));
}

json make_pre_tokenizer(const GgufPreTokenizer& row) {
  json parts = json::array();
  for (size_t i = 0; i < row.parts.size(); ++i) {
    parts.push_back(make_part(row.parts[i]));
    if (row.parts[i].kind == Kind::gpt2) ++i;  // bytes come with it
  }
  return parts.size() == 1 ? parts[0] : json{{"type", "Sequence"}, {"pretokenizers", parts}};
}

}  // namespace llmc
