// Owns the tokenizer of a GGUF file, written from the files of a Hugging Face directory.
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
#include "formats/gguf_special_tokens.h"
#include "formats/gguf_tokenizer.h"
#include "formats/tokenizer_files.h"

namespace llmc {

using nlohmann::json;

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

std::string with_spaces(std::string token) {
  const std::string mark = "\u2581";
  for (size_t at = token.find(mark); at != std::string::npos; at = token.find(mark, at + 1)) token.replace(at, mark.size(), " ");
  return token;
}

enum class Side { front, back };

/// A tokenizer.json as far as GGUF can say it.
class TokenizerFile {
 public:
  TokenizerFile(const json& file, std::string where) : file_(file), where_(std::move(where)) {
    const std::string type = model().value("type", "BPE");
    if (type != "BPE") fail(fmt::format("model type \"{}\" cannot be written as GGUF; expected byte-level BPE, or SentencePiece's", type));
    for (const char* key : {"vocab", "merges"})
      if (!model().contains(key)) fail(fmt::format("model: field \"{}\" is missing", key));
    const json& ids = model().at("vocab");
    AddedTokenIds numbers(std::ssize(ids));
    for (const json& token : file_.value("added_tokens", json::array())) {
      const std::string content = token.at("content");
      const int64_t id = read_id(content, token.at("id"));
      if (!added_.emplace(content, AddedToken{.id = id, .special = token.value("special", false)}).second) continue;
      const auto known = ids.find(content);
      const int64_t expected = numbers.take(known == ids.end() ? std::nullopt : std::optional(read_id(content, *known)));
      if (id != expected) fail(fmt::format("added token \"{}\" has id {}, but is read as {}", content, id, expected));
    }
  }

  const json& model() const { return field("model"); }
  const std::string& where() const { return where_; }

  std::optional<int64_t> find_added(const std::string& content) const {
    const auto token = added_.find(content);
    return token == added_.end() ? std::nullopt : std::optional(token->second.id);
  }

  /// By id; ids that nothing has are filled in as the converter does. Two tokens with one id are refused.
  std::vector<Piece> pieces(int64_t vocabulary) const {
    std::vector<Piece> pieces;
    for (int64_t id = 0; id < vocabulary; ++id) pieces.push_back({.text = fmt::format("[PAD{}]", id), .type = PieceType::unused});
    std::map<int64_t, std::string> holders;
    const auto put = [&](const std::string& token, int64_t id, Piece piece) {
      if (id < 0 || id >= vocabulary) fail(fmt::format("token \"{}\" has id {}, but the model has {} tokens", token, id, vocabulary));
      const std::string& holder = holders.emplace(id, token).first->second;
      if (holder != token) fail(fmt::format("tokens \"{}\" and \"{}\" both have id {}", holder, token, id));
      pieces[static_cast<size_t>(id)] = std::move(piece);
    };
    const json& ids = model().at("vocab");
    for (const auto& [token, id] : ids.items()) put(token, read_id(token, id), {.text = token, .type = PieceType::normal});
    for (const std::string& symbol : model().value("user_defined_symbols", std::vector<std::string>())) put(symbol, read_id(symbol, ids.at(symbol)), {.text = with_spaces(symbol), .type = PieceType::user_defined});
    for (const auto& [token, entry] : added_) {
      const bool is_control = entry.special || looks_special(token);
      put(token, entry.id, {.text = is_control ? token : with_spaces(token), .type = is_control ? PieceType::control : PieceType::user_defined});
    }
    return pieces;
  }

  std::vector<std::string> merges() const {
    std::vector<std::string> merges;
    for (const json& merge : model().at("merges")) merges.push_back(merge_text(merge, where_));
    return merges;
  }

  /// The name of tokenizer.ggml.pre.
  std::string_view find_pre_tokenizer() const {
    const json normalizer = file_.value("normalizer", json());
    if (!normalizer.is_null() && normalizer != json{{"type", "NFC"}}) fail(fmt::format("normalizer {}: llama.cpp does not have it", normalizer.dump()));
    return match_gguf_pre_tokenizer(field("pre_tokenizer"), model().value("ignore_merges", false), where_).names[0];
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
  int64_t read_id(const std::string& token, const json& id) const {
    if (!id.is_number_integer()) fail(fmt::format("token \"{}\": expected a whole number as its id, found {}", token, id.dump()));
    return id.get<int64_t>();
  }

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

  const json& file_;
  std::string where_;
  std::map<std::string, AddedToken> added_;
};

/// "<s>", or {"content": "<s>", …}.
std::optional<std::string> token_text(const json& entry) {
  if (entry.is_string()) return entry.get<std::string>();
  return entry.is_object() && entry.contains("content") && entry["content"].is_string() ? std::optional(entry["content"].get<std::string>()) : std::nullopt;
}

/// Special tokens' ids: by the text that tokenizer_config.json gives, else by the id in config.json, else what the tokenizer itself
/// says: the unknown token, and the one in front of texts.
void write_special_tokens(GgufMetadata& metadata, const TokenizerFile& tokenizer, const json& tokenizer_config, const json& config, int64_t vocabulary) {
  for (const GgufSpecialToken& special : gguf_special_tokens) {
    const std::string name = std::string(special.name) + "_token";
    std::optional<int64_t> id;
    if (tokenizer_config.contains(name))
      if (const auto text = token_text(tokenizer_config[name])) id = tokenizer.find_added(*text);
    if (!id && config.contains(name + "_id") && config[name + "_id"].is_number_integer()) id = config[name + "_id"].get<int64_t>();
    if (!id && name == "unk_token" && tokenizer.model().contains(name) && tokenizer.model()[name].is_string()) id = tokenizer.find_added(tokenizer.model()[name].get<std::string>());
    if (!id && name == "bos_token")
      if (const auto edge = tokenizer.find_edge(Side::front)) id = tokenizer.find_added(*edge);
    if (id && (*id < 0 || *id >= vocabulary)) tokenizer.fail(fmt::format("{} has the id {}, but the model has {} tokens", name, *id, vocabulary));
    if (id) metadata.set(special.key, gguf_u32(static_cast<uint32_t>(*id)));
  }
  for (const auto& [key, id_key, side] : {std::tuple("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", Side::front), std::tuple("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", Side::back)}) {
    const auto edge = tokenizer.find_edge(side);
    if (edge && tokenizer.find_added(*edge) != metadata.find_int(id_key)) tokenizer.fail(fmt::format("post_processor: adds \"{}\", which is not the token of {}; llama.cpp adds that", *edge, id_key));
    metadata.set(key, gguf_bool(edge.has_value()));
  }
}

std::optional<std::string> find_chat_template(const Checkpoint& checkpoint, const json& tokenizer_config) {
  if (tokenizer_config.contains("chat_template")) {
    const json& text = tokenizer_config["chat_template"];
    if (!text.is_string()) throw Error(ErrorKind::input, fmt::format("{}/tokenizer_config.json: chat_template: expected one text, found {}", checkpoint.directory.string(), text.type_name()));
    return text.get<std::string>();
  }
  return checkpoint.find_file("chat_template.jinja");
}

void write_pieces(GgufMetadata& metadata, const std::vector<Piece>& pieces) {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  for (const Piece& piece : pieces) tokens.push_back(piece.text), types.push_back(static_cast<int32_t>(piece.type));
  metadata.set("tokenizer.ggml.tokens", gguf_strings(std::move(tokens)));
  metadata.set("tokenizer.ggml.token_type", gguf_i32s(types));
}

void write_bytes(GgufMetadata& metadata, const TokenizerFile& tokenizer, const json& tokenizer_config, int64_t vocabulary) {
  if (tokenizer_config.contains("add_prefix_space") && tokenizer_config["add_prefix_space"].is_boolean()) metadata.set("tokenizer.ggml.add_space_prefix", gguf_bool(tokenizer_config["add_prefix_space"].get<bool>()));
  metadata.set("tokenizer.ggml.model", gguf_string("gpt2"));
  metadata.set("tokenizer.ggml.pre", gguf_string(std::string(tokenizer.find_pre_tokenizer())));
  write_pieces(metadata, tokenizer.pieces(vocabulary));
  metadata.set("tokenizer.ggml.merges", gguf_strings(tokenizer.merges()));
}

void write_sentencepiece(GgufMetadata& metadata, const TokenizerFile& tokenizer, const json& file, const Checkpoint& checkpoint, int64_t vocabulary) {
  std::optional<SentencePieceModel> source;
  if (const auto text = checkpoint.find_file("tokenizer.model")) source = SentencePieceModel::parse(*text, (checkpoint.directory / "tokenizer.model").string());
  std::vector<Piece> pieces = tokenizer.pieces(vocabulary);
  score_pieces(pieces, file, source, tokenizer.where());
  std::vector<float> scores;
  for (const Piece& piece : pieces) scores.push_back(static_cast<float>(piece.score));
  metadata.set("tokenizer.ggml.model", gguf_string("llama"));
  metadata.set("tokenizer.ggml.pre", gguf_string("default"));
  write_pieces(metadata, pieces);
  metadata.set("tokenizer.ggml.scores", gguf_f32s(scores));
  metadata.set("tokenizer.ggml.add_space_prefix", gguf_bool(adds_space_prefix(file, tokenizer.where())));
}

void write_tokenizer(GgufMetadata& metadata, const Checkpoint& checkpoint, const json& file, int64_t vocabulary, const std::string& where) {
  const TokenizerFile tokenizer(file, where);
  json tokenizer_config = json::object();
  if (const auto content = checkpoint.find_file("tokenizer_config.json")) tokenizer_config = parse_json(*content, (checkpoint.directory / "tokenizer_config.json").string());
  if (is_sentencepiece(file)) write_sentencepiece(metadata, tokenizer, file, checkpoint, vocabulary);
  else write_bytes(metadata, tokenizer, tokenizer_config, vocabulary);
  write_special_tokens(metadata, tokenizer, tokenizer_config, checkpoint.config, vocabulary);
  if (const auto chat_template = find_chat_template(checkpoint, tokenizer_config)) metadata.set("tokenizer.chat_template", gguf_string(*chat_template));
}

}  // namespace

void add_gguf_tokenizer(GgufMetadata& metadata, const Checkpoint& checkpoint, int64_t vocabulary) {
  const auto text = find_tokenizer(checkpoint);
  if (!text) {
    for (const char* other : {"vocab.json", "vocab.txt"})
      if (checkpoint.find_file(other)) throw Error(ErrorKind::input, fmt::format("{}: cannot be written as GGUF; expected a tokenizer.json or tokenizer.model", (checkpoint.directory / other).string()));
    metadata.set("tokenizer.ggml.model", gguf_string("no_vocab"));
    return;
  }
  const std::string where = (checkpoint.directory / (checkpoint.find_file("tokenizer.json") ? "tokenizer.json" : "tokenizer.model")).string();
  try {
    write_tokenizer(metadata, checkpoint, parse_json(*text, where), vocabulary, where);
  } catch (const json::exception& problem) {  // a field of another type than tokenizers writes
    throw Error(ErrorKind::input, fmt::format("{}: {}", where, problem.what()));
  }
}

}  // namespace llmc
