#include "formats/tokenizer_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "formats/sentencepiece_model.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr const char* gpt2_special = "<|endoftext|>";

json read_tokenizer_config(const Checkpoint& checkpoint) {
  const auto text = checkpoint.find_file("tokenizer_config.json");
  if (!text) return json::object();
  const std::string where = (checkpoint.directory / "tokenizer_config.json").string();
  json config = parse_json(*text, where);
  if (!config.is_object()) throw Error(ErrorKind::input, fmt::format("{}: expected an object", where));
  return config;
}

bool read_flag(const json& config, const char* key, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return false;
  if (!found->is_boolean()) throw Error(ErrorKind::input, fmt::format("{}: {}: expected true or false, found {}", where, key, found->dump()));
  return found->get<bool>();
}

/// The text of a special token, given as such or as an object with `content`.
std::string read_special(const json& config, const char* key, const std::string& otherwise, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return otherwise;
  const json& text = found->is_object() ? found->value("content", json()) : *found;
  if (!text.is_string()) throw Error(ErrorKind::input, fmt::format("{}: {}: expected a text or an object with one as content, found {}", where, key, found->dump()));
  return text.get<std::string>();
}

/// A tokenizer.model with what tokenizer_config.json says of the ends of texts. Without a word there BPE's start with BOS, as transformers' Llama
/// tokenizer has it, if the model has that piece.
json make_model_tokenizer(SentencePieceModel model, const json& config, const std::string& config_name, const std::string& where) {
  const auto find_end = [&](const char* flag, const char* key, const std::string& otherwise, bool adds_by_default) -> std::optional<std::string> {
    const bool is_said = config.contains(flag) && !config.at(flag).is_null();
    if (is_said ? !read_flag(config, flag, config_name) : !adds_by_default) return std::nullopt;
    const std::string token = read_special(config, key, otherwise, config_name);
    if (model.find_piece(token)) return token;
    if (!is_said && token == otherwise) return std::nullopt;
    throw Error(ErrorKind::input, fmt::format("{}: {}: {} has no piece \"{}\"", config_name, key, where, token));
  };
  const auto first = find_end("add_bos_token", "bos_token", model.bos, model.kind == SentencePieceModel::Kind::bpe);
  model.last_token = find_end("add_eos_token", "eos_token", model.eos, false);
  return model.make_tokenizer(first, where);
}

/// Whether vocab.json and merges.txt are GPT-2's kind, by tokenizer_config.json or else by the model.
bool is_gpt2_tokenizer(const json& tokenizer_config, const json& config) {
  const std::string kind = tokenizer_config.value("tokenizer_class", json()).is_string() ? tokenizer_config.at("tokenizer_class").get<std::string>() : "";
  return kind == "GPT2Tokenizer" || kind == "GPT2TokenizerFast" || (kind.empty() && config.value("model_type", json()) == "gpt2");
}

/// Every token of a merge is one of `ids`: so it is valid UTF-8 too, as what a JSON file holds is.
json read_merges(std::string_view text, const json& ids, const std::string& where) {
  json merges = json::array();
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == line.size() || line.find(' ', space + 1) != std::string_view::npos) throw Error(ErrorKind::input, fmt::format("{}: line {}: expected two tokens with a space between", where, number));
    for (const std::string_view token : {line.substr(0, space), line.substr(space + 1)})
      if (!ids.contains(token)) throw Error(ErrorKind::input, fmt::format("{}: line {}: a token of the merge is not in vocab.json", where, number));
    merges.push_back(json::array({line.substr(0, space), line.substr(space + 1)}));
  }
  return merges;
}

}  // namespace

json make_byte_level_tokenizer(std::string_view vocabulary, std::string_view merges, const json& config, const std::string& directory) {
  const std::string vocabulary_name = directory + "/vocab.json", config_name = directory + "/tokenizer_config.json";
  json ids = parse_json(vocabulary, vocabulary_name);
  if (!ids.is_object()) throw Error(ErrorKind::input, fmt::format("{}: expected an object of ids by token", vocabulary_name));
  json added = json::array();
  std::set<std::string> seen;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    if (std::string_view(key) == "pad_token" && !config.contains(key)) continue;  // the only one without a default
    const std::string token = read_special(config, key, gpt2_special, config_name);
    if (!seen.insert(token).second) continue;
    if (!ids.contains(token)) throw Error(ErrorKind::input, fmt::format("{}: {} \"{}\" is not in it", vocabulary_name, key, token));
    added.push_back({{"id", ids.at(token)}, {"content", token}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", true}});
  }
  json post_processor;
  if (read_flag(config, "add_bos_token", config_name)) {
    const std::string bos = read_special(config, "bos_token", gpt2_special, config_name);
    if (!ids.at(bos).is_number_unsigned()) throw Error(ErrorKind::input, fmt::format("{}: \"{}\": expected an id", vocabulary_name, bos));
    post_processor = make_bos_template(bos, ids.at(bos).get<size_t>());
  }
  const bool add_prefix_space = read_flag(config, "add_prefix_space", config_name);
  const auto byte_level = [](bool prefix) { return json{{"type", "ByteLevel"}, {"add_prefix_space", prefix}, {"trim_offsets", true}, {"use_regex", true}}; };
  json pairs = read_merges(merges, ids, directory + "/merges.txt");
  json model = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", ""}, {"end_of_word_suffix", ""}, {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", false}, {"vocab", std::move(ids)}, {"merges", std::move(pairs)}};
  return {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", std::move(added)}, {"normalizer", nullptr}, {"pre_tokenizer", byte_level(add_prefix_space)}, {"post_processor", std::move(post_processor)}, {"decoder", byte_level(true)}, {"model", std::move(model)}};
}

std::optional<std::string> find_tokenizer(const Checkpoint& checkpoint) {
  if (auto text = checkpoint.find_file("tokenizer.json")) return text;
  if (const auto file = checkpoint.find_file("tokenizer.model")) {
    const std::string where = (checkpoint.directory / "tokenizer.model").string();
    return make_model_tokenizer(SentencePieceModel::parse(*file, where), read_tokenizer_config(checkpoint), (checkpoint.directory / "tokenizer_config.json").string(), where).dump();
  }
  const auto vocabulary = checkpoint.find_file("vocab.json"), merges = checkpoint.find_file("merges.txt");
  if (!vocabulary || !merges) return std::nullopt;
  const json config = read_tokenizer_config(checkpoint);
  if (!is_gpt2_tokenizer(config, checkpoint.config)) return std::nullopt;
  const std::string directory = checkpoint.directory.string();
  if (checkpoint.find_file("added_tokens.json")) throw Error(ErrorKind::input, fmt::format("{}/added_tokens.json: is not supported beside vocab.json and merges.txt; save the tokenizer as a tokenizer.json", directory));
  return make_byte_level_tokenizer(*vocabulary, *merges, config, directory).dump();
}

}  // namespace llmc
