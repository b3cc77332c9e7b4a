#include "calib/post_processor.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "calib/vocabulary.h"
#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr size_t most_tokens = 1024;  // around a text; a template may name the same long list again and again

const json& get_list(FieldReader& fields, const std::string& key) {
  const json* list = fields.find(key);
  if (!list || !list->is_array()) throw Error(ErrorKind::input, fmt::format("{}: field \"{}\" is missing or not a list", fields.where(), key));
  return *list;
}

class Reader {
 public:
  Reader(const PostProcessor::FindId& find_id, const std::string& where) : find_id_(find_id), where_(where) {}

  void read(const json& post_processor) {
    FieldReader fields(post_processor, where_);
    const std::string type = fields.get_string("type");
    if (type == "ByteLevel") {
      for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.find_bool(key);
    } else if (type == "Sequence") {
      for (const json& part : get_list(fields, "processors")) read(part);
    } else if (type == "TemplateProcessing") {
      require_one(type);
      fields.find("pair");  // llmc never encodes pairs
      read_template(get_list(fields, "single"), read_special_tokens(fields.find("special_tokens")));
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      require_one(type);
      for (const char* key : {"trim_offsets", "add_prefix_space"}) fields.find_bool(key);  // of no effect on ids
      result.before = {read_pair(fields, "cls")};
      result.after = {read_pair(fields, "sep")};
    } else {
      throw Error(ErrorKind::input, fmt::format("{} type \"{}\" is not supported", where_, type));
    }
    fields.finish();
  }

  PostProcessor result;

 private:
  void require_one(const std::string& type) {
    if (adds_tokens_) throw Error(ErrorKind::input, fmt::format("{}: more than one {} is not supported", where_, type));
    adds_tokens_ = true;
  }

  /// ["<s>", 0]
  int32_t read_pair(FieldReader& fields, const std::string& key) const {
    const json* pair = fields.find(key);
    const bool is_pair = pair && pair->is_array() && pair->size() == 2 && pair->at(0).is_string();
    const auto id = is_pair ? find_token_id(pair->at(1)) : std::nullopt;
    if (!id) throw Error(ErrorKind::input, fmt::format("{}: {}: expected [\"token\", id], found {}", where_, key, pair ? pair->dump() : "none"));
    if (find_id_(pair->at(0).get<std::string>()) != id) throw Error(ErrorKind::input, fmt::format("{}: {}: id {} is not the token {}", where_, key, *id, pair->at(0).dump()));
    return *id;
  }

  using SpecialTokens = std::map<std::string, std::vector<int32_t>>;

  SpecialTokens read_special_tokens(const json* object) const {
    SpecialTokens tokens;
    if (!object) return tokens;
    if (!object->is_object()) throw Error(ErrorKind::input, fmt::format("{}: special_tokens: expected an object, found {}", where_, object->type_name()));
    for (const auto& [name, entry] : object->items()) {
      FieldReader fields(entry, fmt::format("{}: special token \"{}\"", where_, name));
      fields.find_string("id");
      const json& ids = get_list(fields, "ids");
      const std::vector<std::string> names = fields.find_strings("tokens");
      fields.finish();
      if (ids.size() != names.size()) throw Error(ErrorKind::input, fmt::format("{}: {} ids for {} tokens", fields.where(), ids.size(), names.size()));
      for (size_t i = 0; i < names.size(); ++i) {
        const auto id = find_token_id(ids[i]);
        if (!id || find_id_(names[i]) != id) throw Error(ErrorKind::input, fmt::format("{}: id {} is not the token \"{}\"", fields.where(), ids[i].dump(), names[i]));
        tokens[name].push_back(*id);
      }
    }
    return tokens;
  }

  /// [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
  void read_template(const json& pieces, const SpecialTokens& tokens) {
    bool has_text = false;
    for (const json& piece : pieces) {
      FieldReader kinds(piece, where_ + ": template");
      const json* special = kinds.find("SpecialToken");
      const json* sequence = kinds.find("Sequence");
      kinds.finish();
      if (!special == !sequence) throw Error(ErrorKind::input, fmt::format("{}: expected \"SpecialToken\" or \"Sequence\", found {}", kinds.where(), piece.dump()));
      FieldReader fields(special ? *special : *sequence, kinds.where());
      const std::string id = fields.get_string("id");
      fields.find_int("type_id");
      fields.finish();
      if (sequence) {
        if (id != "A" || has_text) throw Error(ErrorKind::input, fmt::format("{}: expected the sequence A once, found {}", kinds.where(), piece.dump()));
        has_text = true;
        continue;
      }
      const auto ids = tokens.find(id);
      if (ids == tokens.end()) throw Error(ErrorKind::input, fmt::format("{}: \"{}\" is not among the special_tokens", kinds.where(), id));
      std::vector<int32_t>& side = has_text ? result.after : result.before;
      side.insert(side.end(), ids->second.begin(), ids->second.end());
      if (side.size() > most_tokens) throw Error(ErrorKind::input, fmt::format("{}: more than {} special tokens are not supported", kinds.where(), most_tokens));
    }
    if (!has_text) throw Error(ErrorKind::input, where_ + ": template: expected the sequence A once, found none");
  }

  const PostProcessor::FindId& find_id_;
  const std::string& where_;
  bool adds_tokens_ = false;
};

}  // namespace

PostProcessor PostProcessor::parse(const json* post_processor, const FindId& find_id, const std::string& where) {
  Reader reader(find_id, where);
  if (post_processor) reader.read(*post_processor);
  return std::move(reader.result);
}

}  // namespace llmc
