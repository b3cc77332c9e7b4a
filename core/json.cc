#include "core/json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/shown.h"
#include "core/suggest.h"

namespace llmc {

using nlohmann::json;

namespace {

/// Goes through a text once before it is parsed; a callback while parsing costs time that grows with the square of an object.
class StrictReader : public json::json_sax_t {
 public:
  StrictReader(size_t size, const std::string& where) : size_(size), where_(where) {}

  bool null() override { return count(); }
  bool boolean(bool) override { return count(); }
  bool number_integer(number_integer_t) override { return count(); }
  bool number_unsigned(number_unsigned_t) override { return count(); }
  bool number_float(number_float_t, const string_t&) override { return count(); }
  bool string(string_t&) override { return count(); }
  bool binary(binary_t&) override { return count(); }
  bool start_object(size_t) override { return keys_.emplace_back(), open(); }
  bool end_object() override { return keys_.pop_back(), close(); }
  bool start_array(size_t) override { return open(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) refuse(fmt::format("JSON key \"{}\" appears twice in one object", shown(name)));
    return count();
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& problem) override {  // its own text repeats what was read, of any length and not always UTF-8
    if (dynamic_cast<const json::out_of_range*>(&problem)) refuse("a number in the JSON is beyond what a double holds");
    refuse(fmt::format("not valid JSON: wrong at byte {} of {}", position, size_));
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const { throw Error(ErrorKind::input, fmt::format("{}: {}", where_, what)); }

  bool count() {
    constexpr size_t most_events = 8'000'000;  // keys, values, and both ends of lists and objects; the largest tokenizers have 3 million
    if (++events_ > most_events) refuse(fmt::format("JSON holds more than {} keys, values and ends of lists", most_events));
    return true;
  }

  bool open() {
    constexpr int most_levels = 64;
    if (++levels_ > most_levels) refuse(fmt::format("JSON is nested more than {} levels deep", most_levels));
    return count();
  }

  bool close() { return --levels_, count(); }

  size_t size_;
  const std::string& where_;
  size_t events_ = 0;
  int levels_ = 0;
  std::vector<std::set<std::string>> keys_;  // one set per open object
};

}  // namespace

json parse_json(std::string_view text, const std::string& where) {
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos)  // the parser would take it for the end
    throw Error(ErrorKind::input, fmt::format("{}: not valid JSON: a zero byte at {} of {}", where, zero + 1, text.size()));
  StrictReader strict(text.size(), where);
  json::sax_parse(text, &strict);
  return json::parse(text);
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
