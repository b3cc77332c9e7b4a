#include "calib/word_models.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

namespace {

const json& get_vocabulary(FieldReader& fields) {
  const json* ids = fields.find("vocab");
  if (!ids) throw Error(ErrorKind::input, fmt::format("{}: field \"vocab\" is missing", fields.where()));
  return *ids;
}

int32_t get_unknown(const Vocabulary& vocabulary, const std::string& unknown, std::string_view word) {
  if (const auto id = vocabulary.find_id(unknown)) return *id;
  throw Error(ErrorKind::input, fmt::format("text: the word \"{}\" has no token, and unk_token \"{}\" is not in the vocabulary", word, unknown));
}

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }
size_t count_characters(std::string_view text) {
  return text.size() - static_cast<size_t>(std::ranges::count_if(text, is_continuation));
}

}  // namespace

WordPiece WordPiece::parse(const json& model, const std::string& where) {
  FieldReader fields(model, where);
  fields.find_string("type");
  WordPiece result(Vocabulary::parse(get_vocabulary(fields), where + ": vocab"));
  result.unknown_ = fields.get_string("unk_token");
  result.prefix_ = fields.get_string("continuing_subword_prefix");
  check_affix(result.prefix_, "continuing_subword_prefix", where);
  const int64_t most = fields.get_int("max_input_chars_per_word");
  fields.finish();
  if (most < 0 || most > 65536) throw Error(ErrorKind::input, fmt::format("{}: max_input_chars_per_word: expected 0 to 65536, found {}", where, most));
  result.most_characters_ = static_cast<size_t>(most);
  for (const auto& [token, id] : result.vocabulary_.ids()) {
    if (!token.empty()) result.first_.add(token, static_cast<size_t>(id));
    if (token.size() > result.prefix_.size() && token.starts_with(result.prefix_)) result.next_.add(std::string_view(token).substr(result.prefix_.size()), static_cast<size_t>(id));
  }
  return result;
}

bool WordPiece::append_pieces(std::string_view word, std::vector<int32_t>& ids) const {
  for (size_t begin = 0; begin < word.size();) {
    size_t end = begin;
    int32_t id = 0;
    (begin == 0 ? first_ : next_).for_each_at(word, begin, [&](size_t longer, size_t phrase) { end = longer, id = static_cast<int32_t>(phrase); });
    if (end == begin) return false;
    ids.push_back(id);
    begin = end;
  }
  return true;
}

void WordPiece::encode(std::string_view word, std::vector<int32_t>& ids) const {
  const size_t before = ids.size();
  if (count_characters(word) <= most_characters_ && append_pieces(word, ids)) return;
  ids.resize(before);
  ids.push_back(get_unknown(vocabulary_, unknown_, word));
}

WordLevel WordLevel::parse(const json& model, const std::string& where) {
  FieldReader fields(model, where);
  fields.find_string("type");
  WordLevel result(Vocabulary::parse(get_vocabulary(fields), where + ": vocab"));
  result.unknown_ = fields.get_string("unk_token");
  fields.finish();
  return result;
}

void WordLevel::encode(std::string_view word, std::vector<int32_t>& ids) const {
  const auto id = vocabulary_.find_id(word);
  ids.push_back(id ? *id : get_unknown(vocabulary_, unknown_, word));
}

}  // namespace llmc
