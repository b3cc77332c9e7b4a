#include "formats/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "core/error.h"
#include "core/json.h"
#include "formats/gguf_pre_tokenizer.h"
#include "formats/gguf_sentencepiece.h"

namespace llmc {

using nlohmann::json;

namespace {

/// tokenizer.ggml.token_type (llama.h, llama_token_type).
enum TokenType : int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct SpecialToken {
  const char* name;  ///< as Hugging Face has it: bos_token, bos_token_id
  const char* key;
};
constexpr std::array special_tokens = {SpecialToken{"bos", "tokenizer.ggml.bos_token_id"}, SpecialToken{"eos", "tokenizer.ggml.eos_token_id"}, SpecialToken{"unk", "tokenizer.ggml.unknown_token_id"}, SpecialToken{"sep", "tokenizer.ggml.seperator_token_id"}, SpecialToken{"pad", "tokenizer.ggml.padding_token_id"}, SpecialToken{"cls", "tokenizer.ggml.cls_token_id"}, SpecialToken{"mask", "tokenizer.ggml.mask_token_id"}};

[[noreturn]] void refuse(const GgufMetadata& metadata, const std::string& key, const std::string& what) { throw Error(ErrorKind::input, fmt::format("{}: key {}: {}", metadata.where(), key, what)); }

/// The tokens by id. Nothing when the file has no vocabulary.
const std::vector<std::string>* find_tokens(const GgufMetadata& metadata) {
  const std::string* model = metadata.find_string("tokenizer.ggml.model");
  if (!model || *model == "no_vocab" || *model == "none") return nullptr;
  if (*model != "gpt2" && *model != "llama") refuse(metadata, "tokenizer.ggml.model", fmt::format("\"{}\" is not supported (known: gpt2, which is byte-level BPE, and llama, which is SentencePiece); give token ids (.npy, .u16, .u32) instead of text", *model));
  const auto* tokens = metadata.find_strings("tokenizer.ggml.tokens");
  if (!tokens) refuse(metadata, "tokenizer.ggml.tokens", "is missing");
  return tokens;
}

/// The id that a key gives, of `count` tokens.
std::optional<int64_t> find_special(const GgufMetadata& metadata, const char* key, size_t count) {
  const auto id = metadata.find_int(key);
  if (id && (*id < 0 || *id >= static_cast<int64_t>(count))) refuse(metadata, key, fmt::format("expected an id below {}, found {}", count, *id));
  return id;
}

std::vector<int64_t> token_types(const GgufMetadata& metadata, size_t count) {
  const auto types = metadata.find_ints("tokenizer.ggml.token_type");
  if (!types) return std::vector<int64_t>(count, normal);
  if (types->size() != count) refuse(metadata, "tokenizer.ggml.token_type", fmt::format("expected {} types, one for each token, found {}", count, types->size()));
  for (int64_t type : *types)
    if (type < normal || type > byte) refuse(metadata, "tokenizer.ggml.token_type", fmt::format("expected types from {} to {}, found {}", +normal, +byte, type));
  return *types;
}

/// The token that texts are to start with.
std::optional<int64_t> find_first_token(const GgufMetadata& metadata, size_t count, bool otherwise) {
  if (metadata.find_bool("tokenizer.ggml.add_eos_token").value_or(false)) refuse(metadata, "tokenizer.ggml.add_eos_token", "is not supported");
  if (!metadata.find_bool("tokenizer.ggml.add_bos_token").value_or(otherwise)) return std::nullopt;
  const auto bos = find_special(metadata, "tokenizer.ggml.bos_token_id", count);
  if (!bos) refuse(metadata, "tokenizer.ggml.bos_token_id", "is missing, but texts are to start with it");
  return bos;
}

json make_sentencepiece_tokenizer(const GgufMetadata& metadata, const std::vector<std::string>& tokens) {
  const auto first = find_first_token(metadata, tokens.size(), true);
  return read_gguf_sentencepiece(metadata, tokens, token_types(metadata, tokens.size())).make_tokenizer(first ? std::optional(tokens[static_cast<size_t>(*first)]) : std::nullopt, metadata.where());
}

json make_tokenizer(const GgufMetadata& metadata, const std::vector<std::string>& tokens) {
  if (metadata.get_string("tokenizer.ggml.model") == "llama") return make_sentencepiece_tokenizer(metadata, tokens);
  const auto* merges = metadata.find_strings("tokenizer.ggml.merges");
  if (!merges) refuse(metadata, "tokenizer.ggml.merges", "is missing");
  const GgufPreTokenizer& pre = get_gguf_pre_tokenizer(metadata.get_string("tokenizer.ggml.pre"), metadata.where());
  const std::vector<int64_t> types = token_types(metadata, tokens.size());
  json vocabulary = json::object(), added = json::array();
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] == unused) continue;
    if (!vocabulary.emplace(tokens[id], id).second) refuse(metadata, "tokenizer.ggml.tokens", fmt::format("\"{}\" appears twice", tokens[id]));
    if (types[id] == control || types[id] == user_defined) added.push_back({{"id", id}, {"content", tokens[id]}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", types[id] == control}});
  }
  json result = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", std::move(added)}, {"normalizer", nullptr}, {"pre_tokenizer", make_pre_tokenizer(pre)}, {"post_processor", nullptr}, {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}}};
  result["model"] = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr}, {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", pre.ignore_merges}, {"vocab", std::move(vocabulary)}, {"merges", *merges}};
  if (const auto bos = find_first_token(metadata, tokens.size(), pre.adds_bos)) result["post_processor"] = make_bos_template(tokens[static_cast<size_t>(*bos)], static_cast<size_t>(*bos));
  return result;
}

json make_tokenizer_config(const GgufMetadata& metadata, const std::vector<std::string>& tokens) {
  json result = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  for (const SpecialToken& special : special_tokens)
    if (const auto id = find_special(metadata, special.key, tokens.size())) result[std::string(special.name) + "_token"] = tokens[static_cast<size_t>(*id)];
  if (const std::string* chat_template = metadata.find_string("tokenizer.chat_template")) result["chat_template"] = *chat_template;
  return result;
}

}  // namespace

std::optional<std::string> find_gguf_tokenizer_file(const GgufMetadata& metadata, const std::string& name) {
  if (name != "tokenizer.json" && name != "tokenizer_config.json") return std::nullopt;
  const auto* tokens = find_tokens(metadata);
  if (!tokens) return std::nullopt;
  try {
    return (name == "tokenizer.json" ? make_tokenizer(metadata, *tokens) : make_tokenizer_config(metadata, *tokens)).dump(2) + "\n";
  } catch (const json::exception&) {
    refuse(metadata, "tokenizer.*", "holds text that is not UTF-8");
  }
}

namespace {

struct AddedToken {
  int64_t id = 0;
  bool special = false;
};

/// Tokens whose kind their spelling gives away though the file does not (convert_hf_to_gguf.py, does_token_look_special).
bool looks_special(const std::string& token) {
  constexpr std::array known = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> marks = {{{"<|", "|>"}, {"<｜", "｜>"}, {"<unused", ">"}}};
  return std::ranges::find(known, token) != known.end() || std::ranges::any_of(marks, [&](const auto& mark) { return token.starts_with(mark.first) && token.ends_with(mark.second); });
}

std::string merge_text(const json& merge, const std::string& where) {
  if (merge.is_string()) return merge.get<std::string>();
  if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) throw Error(ErrorKind::input, fmt::format("{}: model: merges: expected \"a b\" or [\"a\", \"b\"], found {}", where, merge.dump()));
  return merge[0].get<std::string>() + " " + merge[1].get<std::string>();
}

enum class Side { front, back };

/// A tokenizer.json as far as GGUF can say it.
class TokenizerFile {
 public:
  TokenizerFile(const json& file, std::string where) : file_(file), where_(std::move(where)) {
    const json& model = field("model");
    const std::string type = model.value("type", "BPE");
    if (type != "BPE") fail(fmt::format("model type \"{}\" cannot be written as GGUF; expected byte-level BPE", type));
    for (const char* key : {"vocab", "merges"})
      if (!model.contains(key)) fail(fmt::format("model: field \"{}\" is missing", key));
    const json normalizer = file_.value("normalizer", json());
    if (!normalizer.is_null() && normalizer != json{{"type", "NFC"}}) fail(fmt::format("normalizer {}: llama.cpp does not have it", normalizer.dump()));
    pre_ = &match_gguf_pre_tokenizer(field("pre_tokenizer"), model.value("ignore_merges", false), where_);
    for (const json& token : file_.value("added_tokens", json::array())) added_[token.at("content").get<std::string>()] = {token.at("id").get<int64_t>(), token.value("special", false)};
  }

  const GgufPreTokenizer& pre() const { return *pre_; }

  std::optional<int64_t> find_added(const std::string& content) const {
    const auto token = added_.find(content);
    return token == added_.end() ? std::nullopt : std::optional(token->second.id);
  }

  /// Tokens and types by id; ids that nothing has are filled in as the converter does.
  void write_tokens(GgufMetadata& metadata, int64_t vocabulary) const {
    std::vector<std::string> tokens(static_cast<size_t>(vocabulary));
    std::vector<int32_t> types(static_cast<size_t>(vocabulary), unused);
    for (int64_t id = 0; id < vocabulary; ++id) tokens[static_cast<size_t>(id)] = fmt::format("[PAD{}]", id);
    const auto put = [&](const std::string& token, int64_t id, TokenType type) {
      if (id < 0 || id >= vocabulary) fail(fmt::format("token \"{}\" has id {}, but the model has {} tokens", token, id, vocabulary));
      tokens[static_cast<size_t>(id)] = token;
      types[static_cast<size_t>(id)] = type;
    };
    for (const auto& [token, id] : field("model").at("vocab").items()) put(token, id.get<int64_t>(), normal);
    for (const auto& [token, entry] : added_) put(entry.special || looks_special(token) ? token : with_spaces(token), entry.id, entry.special || looks_special(token) ? control : user_defined);
    std::vector<std::string> merges;
    for (const json& merge : field("model").at("merges")) merges.push_back(merge_text(merge, where_));
    metadata.set("tokenizer.ggml.tokens", gguf_strings(std::move(tokens)));
    metadata.set("tokenizer.ggml.token_type", gguf_i32s(types));
    metadata.set("tokenizer.ggml.merges", gguf_strings(std::move(merges)));
  }

  /// The one token, if any, that texts start with (or end with).
  std::optional<std::string> find_edge(Side side) const {
    std::optional<std::string> token;
    for (const json& processor : processors())
      if (processor.value("type", "") == "TemplateProcessing") token = edge_of(processor.at("single"), side);
      else if (processor.value("type", "") != "ByteLevel") fail(fmt::format("post_processor {}: llama.cpp does not have it", processor.dump()));
    return token;
  }

  [[noreturn]] void fail(const std::string& what) const { throw Error(ErrorKind::input, fmt::format("{}: {}", where_, what)); }

 private:
  const json& field(const char* name) const {
    if (!file_.contains(name) || !file_.at(name).is_object()) fail(fmt::format("field \"{}\" is missing or not an object", name));
    return file_.at(name);
  }

  json processors() const {
    const json processor = file_.value("post_processor", json());
    if (processor.is_null()) return json::array();
    return processor.value("type", "") == "Sequence" ? processor.at("processors") : json::array({processor});
  }

  std::optional<std::string> edge_of(const json& single, Side side) const {
    std::vector<std::string> before, after;
    bool in_front = true;
    for (const json& piece : single) {
      if (piece.contains("Sequence")) in_front = false;
      else (in_front ? before : after).push_back(piece.at("SpecialToken").at("id").get<std::string>());
    }
    if (before.size() > 1 || after.size() > 1) fail("post_processor: adds more than one token to a side of a text; llama.cpp adds one");
    const auto& tokens = side == Side::front ? before : after;
    return tokens.empty() ? std::nullopt : std::optional(tokens[0]);
  }

  static std::string with_spaces(std::string token) {
    const std::string mark = "\u2581";
    for (size_t at = token.find(mark); at != std::string::npos; at = token.find(mark, at + 1)) token.replace(at, mark.size(), " ");
    return token;
  }

  const json& file_;
  std::string where_;
  const GgufPreTokenizer* pre_ = nullptr;
  std::map<std::string, AddedToken> added_;
};

/// "<s>", or {"content": "<s>", …}.
std::optional<std::string> token_text(const json& entry) {
  if (entry.is_string()) return entry.get<std::string>();
  return entry.is_object() && entry.contains("content") && entry["content"].is_string() ? std::optional(entry["content"].get<std::string>()) : std::nullopt;
}

/// Special tokens' ids: by the text that tokenizer_config.json gives, else by the id in config.json.
void write_special_tokens(GgufMetadata& metadata, const TokenizerFile& tokenizer, const json& tokenizer_config, const json& config, int64_t vocabulary) {
  for (const SpecialToken& special : special_tokens) {
    const std::string name = std::string(special.name) + "_token";
    std::optional<int64_t> id;
    if (tokenizer_config.contains(name))
      if (const auto text = token_text(tokenizer_config[name])) id = tokenizer.find_added(*text);
    if (!id && config.contains(name + "_id") && config[name + "_id"].is_number_integer()) id = config[name + "_id"].get<int64_t>();
    if (id && (*id < 0 || *id >= vocabulary)) tokenizer.fail(fmt::format("{} has the id {}, but the model has {} tokens", name, *id, vocabulary));
    if (id) metadata.set(special.key, gguf_u32(static_cast<uint32_t>(*id)));
  }
  for (const auto& [key, id_key, side] : {std::tuple("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", Side::front), std::tuple("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", Side::back)}) {
    const auto edge = tokenizer.find_edge(side);
    if (edge && tokenizer.find_added(*edge) != metadata.find_int(id_key)) tokenizer.fail(fmt::format("post_processor: adds \"{}\", which is not the token of {}; llama.cpp adds that", *edge, id_key));
    metadata.set(key, gguf_bool(edge.has_value()));
  }
}

std::optional<std::string> find_chat_template(const FindFile& find_file, const json& tokenizer_config, const std::string& where) {
  if (tokenizer_config.contains("chat_template")) {
    const json& text = tokenizer_config["chat_template"];
    if (!text.is_string()) throw Error(ErrorKind::input, fmt::format("{}/tokenizer_config.json: chat_template: expected one text, found {}", where, text.type_name()));
    return text.get<std::string>();
  }
  return find_file("chat_template.jinja");
}

void write_tokenizer(GgufMetadata& metadata, const FindFile& find_file, const std::string& text, const json& config, int64_t vocabulary, const std::string& where) {
  const json file = parse_json(text, where + "/tokenizer.json");
  const TokenizerFile tokenizer(file, where + "/tokenizer.json");
  json tokenizer_config = json::object();
  if (const auto content = find_file("tokenizer_config.json")) tokenizer_config = parse_json(*content, where + "/tokenizer_config.json");
  if (tokenizer_config.contains("add_prefix_space") && tokenizer_config["add_prefix_space"].is_boolean()) metadata.set("tokenizer.ggml.add_space_prefix", gguf_bool(tokenizer_config["add_prefix_space"].get<bool>()));
  metadata.set("tokenizer.ggml.model", gguf_string("gpt2"));
  metadata.set("tokenizer.ggml.pre", gguf_string(std::string(tokenizer.pre().names[0])));
  tokenizer.write_tokens(metadata, vocabulary);
  write_special_tokens(metadata, tokenizer, tokenizer_config, config, vocabulary);
  if (const auto chat_template = find_chat_template(find_file, tokenizer_config, where)) metadata.set("tokenizer.chat_template", gguf_string(*chat_template));
}

}  // namespace

void add_gguf_tokenizer(GgufMetadata& metadata, const FindFile& find_file, const json& config, int64_t vocabulary, const std::string& where) {
  const auto text = find_file("tokenizer.json");
  if (!text) {
    for (const char* other : {"tokenizer.model", "vocab.json", "vocab.txt"})
      if (find_file(other)) throw Error(ErrorKind::input, fmt::format("{}/{}: cannot be written as GGUF; expected a tokenizer.json with byte-level BPE", where, other));
    metadata.set("tokenizer.ggml.model", gguf_string("no_vocab"));
    return;
  }
  try {
    write_tokenizer(metadata, find_file, *text, config, vocabulary, where);
  } catch (const json::exception& problem) {  // a field of another type than tokenizers writes
    throw Error(ErrorKind::input, fmt::format("{}/tokenizer.json: {}", where, problem.what()));
  }
}

}  // namespace llmc
