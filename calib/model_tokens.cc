#include "calib/model_tokens.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "formats/tokenizer_files.h"

namespace llmc {

using nlohmann::json;

std::string tokenizer_name(const Model& model) {
  const Checkpoint& checkpoint = model.checkpoint();
  return checkpoint.gguf ? checkpoint.directory.string() + ": tokenizer" : (checkpoint.directory / "tokenizer.json").string();
}

std::optional<Tokenizer> load_tokenizer(const Model& model) {
  const auto text = find_tokenizer(model.checkpoint());
  if (!text) return std::nullopt;
  return Tokenizer::parse(*text, tokenizer_name(model));
}

namespace {

/// Ids that a field holds, one or a list; empty when it is not there. Those outside the vocabulary name no token.
std::vector<int32_t> read_config_ids(const json& object, const char* key, const std::string& where, int64_t vocabulary) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return {};
  std::vector<int32_t> ids;
  for (const json& entry : found->is_array() ? *found : json::array({*found})) {
    if (!entry.is_number_integer()) throw Error(ErrorKind::input, fmt::format("{}: {}: expected a token id or a list of them, found {}", where, key, found->dump()));
    if (entry >= 0 && entry < vocabulary) ids.push_back(entry.get<int32_t>());
  }
  return ids;
}

}  // namespace

std::optional<int32_t> find_first_token(const Model& model, const Tokenizer& tokenizer) {
  const auto id = tokenizer.first_token();
  if (id && *id >= model.config().vocabulary)
    throw Error(ErrorKind::input, fmt::format("{}: post_processor: token id {} is outside the model's vocabulary of {}", tokenizer_name(model), *id, model.config().vocabulary));
  return id;
}

std::optional<int32_t> find_begin_token(const Model& model, const Tokenizer* tokenizer) {
  if (const auto first = tokenizer ? find_first_token(model, *tokenizer) : std::nullopt) return first;
  const std::vector<int32_t> ids = read_config_ids(model.checkpoint().config, "bos_token_id", model.checkpoint().config_name(), model.config().vocabulary);
  return ids.size() == 1 ? std::optional(ids.front()) : std::nullopt;
}

std::vector<int32_t> find_end_tokens(const Model& model) {
  const Checkpoint& checkpoint = model.checkpoint();
  if (const auto text = checkpoint.find_file("generation_config.json")) {
    const std::string where = (checkpoint.directory / "generation_config.json").string();
    const json generation = parse_json(*text, where);
    if (!generation.is_object()) throw Error(ErrorKind::input, fmt::format("{}: expected an object", where));
    if (const auto ids = read_config_ids(generation, "eos_token_id", where, model.config().vocabulary); !ids.empty()) return ids;
  }
  return read_config_ids(checkpoint.config, "eos_token_id", checkpoint.config_name(), model.config().vocabulary);
}

}  // namespace llmc
