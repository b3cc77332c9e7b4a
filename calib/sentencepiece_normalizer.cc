#include "calib/sentencepiece_normalizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "calib/text_growth.h"
#include "core/error.h"
#include "core/utf8.h"
#include "formats/sentencepiece_model.h"

namespace llmc {

using nlohmann::json;

std::vector<std::string> read_user_defined_symbols(FieldReader& fields) {
  std::vector<std::string> symbols = fields.find_strings("user_defined_symbols");
  if (std::ranges::count(symbols, "") > 0) throw Error(ErrorKind::input, fields.where() + ": user_defined_symbols: one is empty");
  return symbols;
}

SentencePieceNormalizer::SentencePieceNormalizer(FieldReader& fields) {
  const std::string rules = fields.get_string("precompiled_charsmap");
  if (!rules.empty()) rules_ = std::make_unique<const PrecompiledCharsmap>(rules, fields.where() + ": precompiled_charsmap");
  for (const std::string& symbol : read_user_defined_symbols(fields)) symbols_.add(symbol, 0);
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
