// Owns a vocabulary: the names of tokens and their ids.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace llmc {

/// Lets a map with std::string keys be searched with a std::string_view.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <typename Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

class Vocabulary {
 public:
  /// Reads {"token": id, …}. Throws Error(input) that lists every id that is not an integer of 0..2³¹−2 or is used twice.
  static Vocabulary parse(const nlohmann::json& object, const std::string& where);
  /// Tokens whose ids are their places. Of equal ones the last is found, as in Hugging Face's; each id has its name. Throws Error(input) for
  /// too many.
  static Vocabulary from_list(const std::vector<std::string>& tokens, const std::string& where);

  std::optional<int32_t> find_id(std::string_view token) const;
  const std::string* find_token(int32_t id) const;
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  int32_t largest_id() const { return largest_id_; }  ///< −1 when empty
  const TextMap<int32_t>& ids() const { return ids_; }

  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

 private:
  Vocabulary() = default;
  TextMap<int32_t> ids_;
  std::unordered_map<int32_t, const std::string*> tokens_;  ///< the keys of ids_, which stay where they are
  int32_t largest_id_ = -1;
};

/// An id as a file gives it, when it is an integer of 0..2³¹−2 (so that the size of the vocabulary fits 31 bits too).
std::optional<int32_t> find_token_id(const nlohmann::json& value);

/// What is put before or behind characters to find their token: a model's continuing_subword_prefix or end_of_word_suffix. Throws Error(input) where it
/// is long: it is looked up with every character.
void check_affix(std::string_view affix, const char* key, const std::string& where);

}  // namespace llmc
