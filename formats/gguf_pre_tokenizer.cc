#include "formats/gguf_pre_tokenizer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

namespace {

// Names, aliases and meanings: llama-vocab.cpp of llama.cpp (as in llama-cpp-python 0.3.36), whose comments give the regular
// expressions of the tokenizer.json files that they were adapted from.
constexpr std::string_view llama3_words = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2_words = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<GgufPreTokenizer>& list() {
  static const std::vector<GgufPreTokenizer> rows = {
      {.names = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "modern-bert", "exaone4"}, .gpt2_words = true},
      {.names = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"}, .digits = true, .gpt2_words = true},
      {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}, .split = llama3_words, .ignore_merges = true, .adds_bos = true},
      {.names = {"smaug-bpe", "dbrx"}, .split = llama3_words},
      {.names = {"qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan", "solar-open", "kormo", "f2llmv2"}, .split = qwen2_words},
  };
  return rows;
}

/// What a pre_tokenizer does, gathered from the parts of a Sequence.
struct Found {
  std::vector<std::string> splits;
  bool digits = false, gpt2_words = false, byte_level = false;
};

void gather(const json& part, Found& found, const std::string& where) {
  FieldReader fields(part, where);
  const std::string type = fields.get_string("type");
  const auto refuse = [&](const std::string& what) { throw Error(ErrorKind::input, fmt::format("{}: {}: llama.cpp has no name for it", where, what)); };
  if (found.byte_level) refuse(fmt::format("\"{}\" after \"ByteLevel\"", type));
  if (type == "Sequence") {
    const json* parts = fields.find("pretokenizers");
    if (!parts || !parts->is_array()) throw Error(ErrorKind::input, where + ": field \"pretokenizers\" is missing or not a list");
    for (const json& inner : *parts) gather(inner, found, where);
  } else if (type == "ByteLevel") {
    if (fields.find_bool("add_prefix_space").value_or(true)) refuse("\"ByteLevel\" with add_prefix_space");
    found.gpt2_words = fields.find_bool("use_regex").value_or(true);
    found.byte_level = true;
  } else if (type == "Digits" && fields.find_bool("individual_digits").value_or(false) && found.splits.empty()) {
    found.digits = true;
  } else if (type == "Split" && fields.get_string("behavior") == "Isolated" && !fields.find_bool("invert").value_or(false)) {
    const json* pattern = fields.find("pattern");
    const auto expression = pattern ? FieldReader(*pattern, where + ": pattern").find_string("Regex") : std::nullopt;
    if (!expression) refuse("a \"Split\" without \"Regex\"");
    found.splits.push_back(*expression);
  } else {
    refuse(fmt::format("\"{}\"", part.dump()));
  }
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
  Found found;
  gather(pre_tokenizer, found, where + ": pre_tokenizer");
  for (const GgufPreTokenizer& row : list()) {
    const bool same_splits = row.split.empty() ? found.splits.empty() : found.splits.size() == 1 && found.splits[0] == row.split;
    if (found.byte_level && same_splits && row.digits == found.digits && row.gpt2_words == found.gpt2_words && row.ignore_merges == ignore_merges) return row;
  }
  throw Error(ErrorKind::input, fmt::format("{}: pre_tokenizer{}: {}: llama.cpp has no name for it that llmc knows", where, ignore_merges ? " with ignore_merges" : "", pre_tokenizer.dump()));
}

json make_pre_tokenizer(const GgufPreTokenizer& row) {
  json parts = json::array();
  if (!row.split.empty()) parts.push_back({{"type", "Split"}, {"pattern", {{"Regex", row.split}}}, {"behavior", "Isolated"}, {"invert", false}});
  if (row.digits) parts.push_back({{"type", "Digits"}, {"individual_digits", true}});
  parts.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", row.gpt2_words}});
  return parts.size() == 1 ? parts[0] : json{{"type", "Sequence"}, {"pretokenizers", parts}};
}

}  // namespace llmc
