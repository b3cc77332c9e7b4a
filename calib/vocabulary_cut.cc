#include "calib/vocabulary_cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "calib/byte_alphabet.h"
#include "calib/token_data.h"
#include "calib/tokenizer.h"
#include "core/error.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/shown.h"
#include "core/side_file.h"

namespace llmc {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// The two tokens of a merge, "a b" or ["a", "b"]; Tokenizer::parse has checked it. Nothing for a "#version" line.
std::optional<std::pair<std::string, std::string>> find_parts(const json& merge) {
  if (merge.is_array()) return std::pair(merge.at(0).get<std::string>(), merge.at(1).get<std::string>());
  const auto text = merge.get<std::string>();
  if (text.starts_with("#version")) return std::nullopt;
  const size_t space = text.find(' ');
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

/// New ids of old ones.
class IdMap {
 public:
  explicit IdMap(const std::vector<int64_t>& kept) {
    for (size_t i = 0; i < kept.size(); ++i) ids_[kept[i]] = static_cast<int64_t>(i);
  }
  bool has(int64_t id) const { return ids_.contains(id); }
  int64_t get(int64_t id) const { return ids_.at(id); }
  /// Replaces every id in a number or in lists of them; what names no token is left as it is.
  void replace(json& value) const {
    if (value.is_number_integer() && has(value.get<int64_t>())) value = get(value.get<int64_t>());
    else if (value.is_array())
      for (json& item : value) replace(item);
  }

 private:
  std::map<int64_t, int64_t> ids_;
};

/// Whether a key of config.json or generation_config.json holds ids.
bool holds_ids(const std::string& key) { return key.ends_with("_token_id") || key == "suppress_tokens" || key == "begin_suppress_tokens" || key == "bad_words_ids" || key == "force_words_ids" || key == "forced_decoder_ids"; }

void for_each_id(const json& value, const std::function<void(int64_t)>& body) {
  if (value.is_number_integer()) body(value.get<int64_t>());
  if (value.is_array())
    for (const json& item : value) for_each_id(item, body);
}

/// "special_tokens" of templates, and "cls" and "sep" of BERT's and RoBERTa's, wherever they are in a post_processor.
void replace_in_templates(json& value, const IdMap& ids) {
  if (value.is_array())
    for (json& item : value) replace_in_templates(item, ids);
  if (!value.is_object()) return;
  if (const auto tokens = value.find("special_tokens"); tokens != value.end())
    for (auto& [name, token] : tokens->items()) ids.replace(token["ids"]);
  for (const char* key : {"cls", "sep"})
    if (const auto pair = value.find(key); pair != value.end()) ids.replace(*pair);
  if (const auto processors = value.find("processors"); processors != value.end()) replace_in_templates(*processors, ids);
}

/// {"token": id, …} of what stays.
json filter_ids(const json& tokens, const IdMap& ids) {
  json result = json::object();
  for (const auto& [token, id] : tokens.items())
    if (ids.has(id.get<int64_t>())) result[token] = ids.get(id.get<int64_t>());
  return result;
}

/// The same of added_tokens.json.
json filter_added_tokens(const json& tokens, const IdMap& ids, const std::string& where) {
  if (!tokens.is_object() || !std::ranges::all_of(tokens, [](const json& id) { return id.is_number_integer(); })) throw Error(ErrorKind::input, fmt::format("{}: expected an object of ids by token", where));
  return filter_ids(tokens, ids);
}

json filter_merges(const json& model, const json& vocabulary) {
  json merges = json::array();
  for (const json& merge : model.at("merges")) {
    const auto parts = find_parts(merge);
    if (!parts || (vocabulary.contains(parts->first) && vocabulary.contains(parts->second) && vocabulary.contains(parts->first + parts->second))) merges.push_back(merge);
  }
  return merges;
}

std::string rewrite_tokenizer(json tokenizer, const IdMap& ids) {
  json& model = tokenizer.at("model");
  model["vocab"] = filter_ids(model.at("vocab"), ids);
  model["merges"] = filter_merges(model, model.at("vocab"));
  if (const auto added = tokenizer.find("added_tokens"); added != tokenizer.end() && added->is_array())
    for (json& token : *added) ids.replace(token.at("id"));
  if (tokenizer.contains("post_processor")) replace_in_templates(tokenizer["post_processor"], ids);
  return format_json(tokenizer);
}

std::string rewrite_tokenizer_config(json config, const IdMap& ids) {
  if (const auto decoder = config.find("added_tokens_decoder"); decoder != config.end() && decoder->is_object()) {
    json rewritten = json::object();
    for (const auto& [id, token] : decoder->items()) {
      const bool is_number = !id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == std::string::npos;
      if (is_number && ids.has(std::stoll(id))) rewritten[std::to_string(ids.get(std::stoll(id)))] = token;
    }
    *decoder = std::move(rewritten);
  }
  return format_json(config);
}

void replace_in_config(json& config, const IdMap& ids) {
  for (auto& [key, value] : config.items())
    if (holds_ids(key)) ids.replace(value);
}

/// merges.txt of the merges of a rewritten tokenizer.json.
std::string write_merges(const json& merges) {
  std::string text = "#version: 0.2\n";
  for (const json& merge : merges)
    if (const auto parts = find_parts(merge)) text += parts->first + " " + parts->second + "\n";
  return text;
}

}  // namespace

std::set<int32_t> close_over_merges(const json& tokenizer, std::set<int32_t> used) {
  const json &vocabulary = tokenizer.at("model").at("vocab"), &merges = tokenizer.at("model").at("merges");
  std::map<int32_t, std::vector<std::pair<int32_t, int32_t>>> made_from;
  const auto id_of = [&](const std::string& token) { return vocabulary.at(token).get<int32_t>(); };
  for (const json& merge : merges)
    if (const auto parts = find_parts(merge)) made_from[id_of(parts->first + parts->second)].emplace_back(id_of(parts->first), id_of(parts->second));
  if (const auto added = tokenizer.find("added_tokens"); added != tokenizer.end() && added->is_array())
    for (const json& token : *added) used.insert(token.at("id").get<int32_t>());
  for (int byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    if (const auto token = vocabulary.find(spell_bytes({&raw, 1})); token != vocabulary.end()) used.insert(token->get<int32_t>());
  }
  // A token is merged within a word as it is alone: no merge crosses its borders, or it would not be there. So what it is
  // merged from is all that is needed, and of the merges that are left the same one has the lowest rank at every step.
  std::vector<int32_t> open(used.begin(), used.end());
  while (!open.empty()) {
    const int32_t id = open.back();
    open.pop_back();
    for (const auto& [left, right] : made_from[id])
      for (int32_t part : {left, right})
        if (used.insert(part).second) open.push_back(part);
  }
  return used;
}

VocabularyCut cut_vocabulary(const fs::path& checkpoint, const json& config, int64_t vocabulary, const std::vector<std::string>& texts) {
  const fs::path path = checkpoint / "tokenizer.json";
  if (!has_entry(path)) throw Error(ErrorKind::input, fmt::format("{}: not found; dropping tokens needs it", path.string()));
  if (has_entry(checkpoint / "tokenizer.model")) throw Error(ErrorKind::input, fmt::format("{}: cannot be rewritten to fewer tokens; expected a checkpoint with tokenizer.json only", (checkpoint / "tokenizer.model").string()));
  const std::string text = read_text_file(path);
  const Tokenizer tokenizer = Tokenizer::parse(text, path.string());
  if (!tokenizer.is_byte_level()) throw Error(ErrorKind::input, fmt::format("{}: cannot be rewritten to fewer tokens; expected byte-level BPE", path.string()));
  const json file = parse_json(text, path.string());
  for (const json& token : file.value("added_tokens", json::array())) {  // Hugging Face gives a token another id where the file's is taken or leaves a gap
    const std::string content = token.at("content");
    if (tokenizer.encode(content, SpecialTokens::omit) != std::vector{token.at("id").get<int32_t>()}) throw Error(ErrorKind::input, fmt::format("{}: added token \"{}\" does not get the id {} that the file says; dropping tokens needs the two alike", path.string(), shown(content), token.at("id").get<int64_t>()));
  }

  std::set<int32_t> used;
  for (const std::string& name : texts)
    for (const auto& sequence : load_token_data(name, {.tokenizer = &tokenizer}, vocabulary).sequences) used.insert(sequence.begin(), sequence.end());
  VocabularyCut cut{.kept = {}, .config = config, .files = {}};
  std::map<std::string, json> configs = {{"config.json", config}};
  const fs::path generation = checkpoint / "generation_config.json";
  if (const auto content = find_text_file(generation)) configs["generation_config.json"] = parse_json(*content, generation.string());
  for (const auto& [name, object] : configs)
    for (const auto& [key, value] : object.items())
      if (holds_ids(key)) for_each_id(value, [&](int64_t id) {
          if (id >= 0 && id < vocabulary) used.insert(static_cast<int32_t>(id));
        });
  for (int32_t id : close_over_merges(file, std::move(used))) cut.kept.push_back(id);
  if (cut.kept.back() >= vocabulary) throw Error(ErrorKind::input, fmt::format("{}: a token has the id {}, but the model has rows for {} only", path.string(), cut.kept.back(), vocabulary));
  if (static_cast<int64_t>(cut.kept.size()) == vocabulary) throw Error(ErrorKind::usage, fmt::format("vocab: the texts use all {} tokens; there is none to drop", vocabulary));

  const IdMap ids(cut.kept);
  cut.files["tokenizer.json"] = rewrite_tokenizer(file, ids);
  const json rewritten = json::parse(cut.files["tokenizer.json"]);
  const auto rewrite = [&](const char* name, const std::function<std::string(json)>& body) {
    if (const auto content = find_text_file(checkpoint / name)) cut.files[name] = body(parse_json(*content, (checkpoint / name).string()));
  };
  rewrite("tokenizer_config.json", [&](json object) { return rewrite_tokenizer_config(std::move(object), ids); });
  rewrite("added_tokens.json", [&](const json& object) { return format_json(filter_added_tokens(object, ids, (checkpoint / "added_tokens.json").string())); });
  rewrite("vocab.json", [&](const json&) { return format_json(rewritten.at("model").at("vocab")); });
  rewrite("generation_config.json", [&](json object) { return replace_in_config(object, ids), format_json(object); });
  if (find_text_file(checkpoint / "merges.txt")) cut.files["merges.txt"] = write_merges(rewritten.at("model").at("merges"));
  replace_in_config(cut.config, ids);
  return cut;
}

}  // namespace llmc
