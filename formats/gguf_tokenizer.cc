#include "formats/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "formats/gguf_pre_tokenizer.h"
#include "formats/gguf_sentencepiece.h"
#include "formats/gguf_special_tokens.h"

namespace llmc {

using nlohmann::json;

namespace {

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
  if (!types) return std::vector<int64_t>(count, static_cast<int64_t>(PieceType::normal));
  if (types->size() != count) refuse(metadata, "tokenizer.ggml.token_type", fmt::format("expected {} types, one for each token, found {}", count, types->size()));
  constexpr auto first = static_cast<int64_t>(PieceType::normal), last = static_cast<int64_t>(PieceType::byte);
  for (int64_t type : *types)
    if (type < first || type > last) refuse(metadata, "tokenizer.ggml.token_type", fmt::format("expected types from {} to {}, found {}", first, last, type));
  return *types;
}

/// The token that texts are to start with.
std::optional<int64_t> find_gguf_first_token(const GgufMetadata& metadata, size_t count, bool otherwise) {
  if (metadata.find_bool("tokenizer.ggml.add_eos_token").value_or(false)) refuse(metadata, "tokenizer.ggml.add_eos_token", "is not supported");
  if (!metadata.find_bool("tokenizer.ggml.add_bos_token").value_or(otherwise)) return std::nullopt;
  const auto bos = find_special(metadata, "tokenizer.ggml.bos_token_id", count);
  if (!bos) refuse(metadata, "tokenizer.ggml.bos_token_id", "is missing, but texts are to start with it");
  return bos;
}

json make_sentencepiece_tokenizer(const GgufMetadata& metadata, const std::vector<std::string>& tokens) {
  const auto first = find_gguf_first_token(metadata, tokens.size(), true);
  return read_gguf_sentencepiece(metadata, tokens, token_types(metadata, tokens.size())).make_tokenizer(first ? std::optional(tokens[static_cast<size_t>(*first)]) : std::nullopt, metadata.where(), SentencePieceModel::Reader::transformers);
}

json make_tokenizer(const GgufMetadata& metadata, const std::vector<std::string>& tokens) {
  if (metadata.get_string("tokenizer.ggml.model") == "llama") return make_sentencepiece_tokenizer(metadata, tokens);
  const auto* merges = metadata.find_strings("tokenizer.ggml.merges");
  if (!merges) refuse(metadata, "tokenizer.ggml.merges", "is missing");
  const GgufPreTokenizer& pre = get_gguf_pre_tokenizer(metadata.get_string("tokenizer.ggml.pre"), metadata.where());
  const std::vector<int64_t> types = token_types(metadata, tokens.size());
  json vocabulary = json::object(), added = json::array();
  for (size_t id = 0; id < tokens.size(); ++id) {
    const auto type = static_cast<PieceType>(types[id]);
    if (type == PieceType::unused) continue;
    if (!vocabulary.emplace(tokens[id], id).second) refuse(metadata, "tokenizer.ggml.tokens", fmt::format("\"{}\" appears twice", tokens[id]));
    if (type == PieceType::control || type == PieceType::user_defined) added.push_back({{"id", id}, {"content", tokens[id]}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", type == PieceType::control}});
  }
  json result = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", std::move(added)}, {"normalizer", nullptr}, {"pre_tokenizer", make_pre_tokenizer(pre)}, {"post_processor", nullptr}, {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}}};
  result["model"] = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr}, {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", pre.ignore_merges}, {"vocab", std::move(vocabulary)}, {"merges", *merges}};
  if (const auto bos = find_gguf_first_token(metadata, tokens.size(), pre.adds_bos)) result["post_processor"] = make_bos_template(tokens[static_cast<size_t>(*bos)], static_cast<size_t>(*bos));
  return result;
}

json make_tokenizer_config(const GgufMetadata& metadata, const std::vector<std::string>& tokens) {
  json result = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  for (const GgufSpecialToken& special : gguf_special_tokens)
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

}  // namespace llmc
