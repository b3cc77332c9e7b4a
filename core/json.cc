#include "core/json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/shown.h"
#include "core/suggest.h"

namespace llmc {

using nlohmann::json;

json parse_json(std::string_view text, const std::string& where) {
  constexpr int most_levels = 64;
  constexpr size_t most_events = 8'000'000;  // keys, values, and both ends of lists and objects; the largest tokenizers have 3 million
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos)  // the parser would take it for the end
    throw Error(ErrorKind::input, fmt::format("{}: not valid JSON: a zero byte at {} of {}", where, zero + 1, text.size()));
  size_t events = 0;
  std::vector<std::set<std::string>> keys;  // one set per open object
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > most_levels) throw Error(ErrorKind::input, fmt::format("{}: JSON is nested more than {} levels deep", where, most_levels));
    if (++events > most_events) throw Error(ErrorKind::input, fmt::format("{}: JSON holds more than {} keys, values and ends of lists", where, most_events));
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      throw Error(ErrorKind::input, fmt::format("{}: JSON key \"{}\" appears twice in one object", where, shown(parsed.get<std::string>())));
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::parse_error& problem) {  // its own text repeats what was read, of any length and not always UTF-8
    throw Error(ErrorKind::input, fmt::format("{}: not valid JSON: wrong at byte {} of {}", where, problem.byte, text.size()));
  } catch (const json::exception&) {  // its one other fault while reading
    throw Error(ErrorKind::input, fmt::format("{}: a number in the JSON is beyond what a double holds", where));
  }
}

std::string format_json(const json& value) { return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n"; }

FieldReader::FieldReader(const json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) throw Error(ErrorKind::input, fmt::format("{}: expected an object, found {}", where_, object.type_name()));
}

const json* FieldReader::find(const std::string& key) {
  known_.insert(key);
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool FieldReader::is_null(const std::string& key) const {
  const auto it = object_.find(key);
  return it != object_.end() && it->is_null();
}

void FieldReader::wrong_type(const std::string& key, const char* expected) const {
  throw Error(ErrorKind::input, fmt::format("{}: field \"{}\": expected {}, found {}", where_, key, expected, shown(object_.at(key).dump())));
}

void FieldReader::missing(const std::string& key) const {
  throw Error(ErrorKind::input, fmt::format("{}: field \"{}\" is missing", where_, key));
}

std::optional<int64_t> FieldReader::find_int(const std::string& key) {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX)) wrong_type(key, "an integer");
  return value->get<int64_t>();
}

std::optional<double> FieldReader::find_number(const std::string& key) {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number()) wrong_type(key, "a number");
  return value->get<double>();
}

std::optional<bool> FieldReader::find_bool(const std::string& key) {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) wrong_type(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> FieldReader::find_string(const std::string& key) {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) wrong_type(key, "a string");
  return value->get<std::string>();
}

std::vector<std::string> FieldReader::find_strings(const std::string& key) {
  std::vector<std::string> result;
  const json* value = find(key);
  if (!value) return result;
  if (!value->is_array()) wrong_type(key, "a list of strings");
  for (const json& item : *value) {
    if (!item.is_string()) wrong_type(key, "a list of strings");
    result.push_back(item.get<std::string>());
  }
  return result;
}

int64_t FieldReader::get_int(const std::string& key) {
  const auto value = find_int(key);
  if (!value) missing(key);
  return *value;
}

std::string FieldReader::get_string(const std::string& key) {
  const auto value = find_string(key);
  if (!value) missing(key);
  return *value;
}

std::vector<std::string> FieldReader::unread() const {
  std::vector<std::string> result;
  for (const auto& [key, value] : object_.items())
    if (!known_.contains(key)) result.push_back(key);
  return result;
}

void FieldReader::finish() const {
  Problems problems;
  const std::vector<std::string> names(known_.begin(), known_.end());
  for (const std::string& key : unread()) problems.add(fmt::format("unknown field \"{}\"{}", shown(key), did_you_mean(key, names)));
  problems.throw_if_any(ErrorKind::input, where_);
}

}  // namespace llmc
