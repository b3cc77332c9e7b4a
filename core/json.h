// Owns reading JSON that came from outside: bounded depth, no duplicate keys, unknown keys refused by name.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

/// Parses strictly: valid UTF-8, no duplicate key, at most 64 levels deep. Throws Error(input) that names `where`.
nlohmann::json parse_json(std::string_view text, const std::string& where);

/// Indented text with a newline at its end. Bytes that are no UTF-8, which file names may hold, become U+FFFD.
std::string format_json(const nlohmann::json& value);

/// Reads the fields of one JSON object by name and remembers which were asked for. A field with the wrong type
/// throws Error(input); a null counts as absent.
class FieldReader {
 public:
  FieldReader(const nlohmann::json& object, std::string where);

  const nlohmann::json* find(const std::string& key);
  bool is_null(const std::string& key) const;  ///< there, and null
  std::optional<int64_t> find_int(const std::string& key);
  std::optional<double> find_number(const std::string& key);
  std::optional<bool> find_bool(const std::string& key);
  std::optional<std::string> find_string(const std::string& key);
  std::vector<std::string> find_strings(const std::string& key);  ///< empty when absent
  int64_t get_int(const std::string& key);
  std::string get_string(const std::string& key);

  /// Keys of the object that nobody asked for.
  std::vector<std::string> unread() const;
  /// Throws when a key was not asked for, with the nearest known name.
  void finish() const;
  const std::string& where() const { return where_; }

 private:
  [[noreturn]] void wrong_type(const std::string& key, const char* expected) const;
  [[noreturn]] void missing(const std::string& key) const;

  const nlohmann::json& object_;
  std::string where_;
  std::set<std::string> known_;
};

}  // namespace llmc
