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

json read_tokenizer_config(const Checkpoint& checkpoint) {
  const auto text = checkpoint.find_file("tokenizer_config.json");
  if (!text) return json::object();
  const std::string where = (checkpoint.directory / "tokenizer_config.json").string();
  json config = parse_json(*text, where);
  if (!config.is_object()) throw Error(ErrorKind::input, fmt::format("{}: expected an object", where));
  return config;
}

/// "<s>", for a model that starts texts with it: transformers' Llama tokenizer does unless tokenizer_config.json denies it.
std::optional<std::string> find_first_token(const json& config, const SentencePieceModel& model) {
  const auto adds = config.find("add_bos_token");
  const bool is_denied = adds != config.end() && adds->is_boolean() ? !adds->get<bool>() : model.kind != SentencePieceModel::Kind::bpe;
  return is_denied ? std::nullopt : std::optional<std::string>("<s>");
}

/// Whether vocab.json and merges.txt are GPT-2's kind, by tokenizer_config.json or else by the model.
bool is_gpt2_tokenizer(const json& tokenizer_config, const json& config) {
  const std::string kind = tokenizer_config.value("tokenizer_class", json()).is_string() ? tokenizer_config.at("tokenizer_class").get<std::string>() : "";
  return kind == "GPT2Tokenizer" || kind == "GPT2TokenizerFast" || (kind.empty() && config.value("model_type", json()) == "gpt2");
}

/// The text of a special token, given as such or as an object with `content`.
std::string read_special(const json& config, const char* key, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return "<|endoftext|>";
  const json& text = found->is_object() ? found->value("content", json()) : *found;
  if (!text.is_string()) throw Error(ErrorKind::input, fmt::format("{}: {}: expected a text or an object with one as content, found {}", where, key, found->dump()));
  return text.get<std::string>();
}

bool read_flag(const json& config, const char* key, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return false;
  if (!found->is_boolean()) throw Error(ErrorKind::input, fmt::format("{}: {}: expected true or false, found {}", where, key, found->dump()));
  return found->get<bool>();
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
    const std::string token = read_special(config, key, config_name);
    if (!seen.insert(token).second) continue;
    if (!ids.contains(token)) throw Error(ErrorKind::input, fmt::format("{}: {} \"{}\" is not in it", vocabulary_name, key, token));
    added.push_back({{"id", ids.at(token)}, {"content", token}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", true}});
  }
  json post_processor;
  if (read_flag(config, "add_bos_token", config_name)) {
    const std::string bos = read_special(config, "bos_token", config_name);
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
    const SentencePieceModel model = SentencePieceModel::parse(*file, where);
    return model.make_tokenizer(find_first_token(read_tokenizer_config(checkpoint), model), where).dump();
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
