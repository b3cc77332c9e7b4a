#include "calib/sentencepiece_normalizer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "calib/text_growth.h"
#include "calib/utf8.h"
#include "core/error.h"
#include "formats/sentencepiece_model.h"

namespace llmc {

using nlohmann::json;

PhraseMatcher read_phrases(FieldReader& fields, const std::string& key) {
  PhraseMatcher phrases;
  const json* list = fields.find(key);
  if (!list) return phrases;
  if (!list->is_array()) throw Error(ErrorKind::input, fmt::format("{}: {}: expected a list, found {}", fields.where(), key, list->type_name()));
  for (size_t i = 0; i < list->size(); ++i) {
    const json& phrase = (*list)[i];
    if (!phrase.is_string() || phrase.get_ref<const std::string&>().empty()) throw Error(ErrorKind::input, fmt::format("{}: {}: expected texts, found {}", fields.where(), key, phrase.dump()));
    phrases.add(phrase.get_ref<const std::string&>(), i);
  }
  return phrases;
}

SentencePieceNormalizer::SentencePieceNormalizer(FieldReader& fields) {
  const std::string rules = fields.get_string("precompiled_charsmap");
  if (!rules.empty()) rules_ = std::make_unique<const PrecompiledCharsmap>(rules, fields.where() + ": precompiled_charsmap");
  symbols_ = read_phrases(fields, "user_defined_symbols");
  adds_dummy_prefix_ = fields.find_bool("add_dummy_prefix").value_or(true);
  removes_spaces_ = fields.find_bool("remove_extra_whitespaces").value_or(true);
  marks_ends_ = fields.find_bool("treat_whitespace_as_suffix").value_or(false);
}

SentencePieceNormalizer::Prefix SentencePieceNormalizer::normalize_prefix(std::string_view text, size_t at) const {
  size_t symbol_end = at;
  symbols_.for_each_at(text, at, [&](size_t end, size_t) { symbol_end = end; });
  if (symbol_end > at) return {text.substr(at, symbol_end - at), symbol_end - at};
  if (rules_)
    if (const auto rule = rules_->find_longest(text.substr(at))) return {rule->replacement, rule->bytes};
  const size_t bytes = code_point_at(text, at).bytes;
  return {text.substr(at, bytes), bytes};
}

std::string SentencePieceNormalizer::apply(std::string_view text) const {
  size_t at = 0;
  while (removes_spaces_ && at < text.size()) {
    const Prefix prefix = normalize_prefix(text, at);
    if (prefix.replacement != " ") break;
    at += prefix.bytes;
  }
  std::string result;
  if (at >= text.size()) return result;
  if (adds_dummy_prefix_ && !marks_ends_) result += space_mark;
  bool is_after_space = removes_spaces_;
  while (at < text.size()) {
    auto [replacement, bytes] = normalize_prefix(text, at);
    while (is_after_space && replacement.starts_with(' ')) replacement.remove_prefix(1);
    if (!replacement.empty()) is_after_space = removes_spaces_ && replacement.ends_with(' ');
    for (char c : replacement) {
      if (c == ' ') result += space_mark;
      else result += c;
    }
    check_growth(result.size(), most_grown_bytes(text.size()), "normalizer");
    at += bytes;
  }
  while (removes_spaces_ && result.ends_with(space_mark)) result.resize(result.size() - space_mark.size());
  if (adds_dummy_prefix_ && marks_ends_) result += space_mark;
  return result;
}

}  // namespace llmc
