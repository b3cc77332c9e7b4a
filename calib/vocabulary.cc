#include "calib/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace llmc {

using nlohmann::json;

std::optional<int32_t> find_token_id(const json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  const bool is_possible = value.is_number_unsigned() ? value.get<uint64_t>() < INT32_MAX : value.get<int64_t>() >= 0 && value.get<int64_t>() < INT32_MAX;
  return is_possible ? std::optional(value.get<int32_t>()) : std::nullopt;
}

Vocabulary Vocabulary::parse(const json& object, const std::string& where) {
  if (!object.is_object()) throw Error(ErrorKind::input, fmt::format("{}: expected an object of tokens and ids, found {}", where, object.type_name()));
  Vocabulary vocabulary;
  Problems problems;
  vocabulary.ids_.reserve(object.size());
  vocabulary.tokens_.reserve(object.size());
  for (const auto& [token, value] : object.items()) {
    const auto id = find_token_id(value);
    if (!id) {
      problems.add(fmt::format("token \"{}\": expected an id from 0 to {}, found {}", token, INT32_MAX - 1, value.dump()));
      continue;
    }
    const auto entry = vocabulary.ids_.emplace(token, *id).first;
    const auto [other, is_new] = vocabulary.tokens_.emplace(*id, &entry->first);
    if (!is_new) problems.add(fmt::format("tokens \"{}\" and \"{}\" share the id {}", *other->second, token, *id));
    vocabulary.largest_id_ = std::max(vocabulary.largest_id_, *id);
  }
  problems.throw_if_any(ErrorKind::input, where);
  return vocabulary;
}

Vocabulary Vocabulary::from_list(const std::vector<std::string>& tokens, const std::string& where) {
  if (tokens.size() >= INT32_MAX) throw Error(ErrorKind::input, fmt::format("{}: {} tokens are too many", where, tokens.size()));
  Vocabulary vocabulary;
  for (const std::string& token : tokens) {
    const auto id = ++vocabulary.largest_id_;
    const auto entry = vocabulary.ids_.insert_or_assign(token, id).first;
    vocabulary.tokens_.emplace(id, &entry->first);
  }
  return vocabulary;
}

std::optional<int32_t> Vocabulary::find_id(std::string_view token) const {
  const auto entry = ids_.find(token);
  return entry == ids_.end() ? std::nullopt : std::optional(entry->second);
}

const std::string* Vocabulary::find_token(int32_t id) const {
  const auto entry = tokens_.find(id);
  return entry == tokens_.end() ? nullptr : entry->second;
}

void check_affix(std::string_view affix, const char* key, const std::string& where) {
  constexpr size_t most = 64;
  if (affix.size() > most) throw Error(ErrorKind::input, fmt::format("{}: {}: has {} bytes; at most {} are supported", where, key, affix.size(), most));
}

}  // namespace llmc
