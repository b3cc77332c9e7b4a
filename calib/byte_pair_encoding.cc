#include "calib/byte_pair_encoding.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "calib/byte_alphabet.h"
#include "calib/pair_merging.h"
#include "calib/sentencepiece_normalizer.h"
#include "core/error.h"
#include "core/json.h"
#include "core/utf8.h"
#include "formats/sentencepiece_model.h"

namespace llmc {

using nlohmann::json;

namespace {

using TextPair = std::pair<std::string, std::string>;

/// "a b" or ["a", "b"]; nothing when it is neither.
std::optional<TextPair> find_pair(const json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return TextPair(merge[0].get<std::string>(), merge[1].get<std::string>());
  if (!merge.is_string()) return std::nullopt;
  const std::string& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return std::nullopt;
  return TextPair(text.substr(0, space), text.substr(space + 1));
}

bool is_version_line(const json& merge) { return merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version"); }

constexpr int32_t no_token = -1;

std::string describe(std::string_view character) { return fmt::format("U+{:04X}", static_cast<uint32_t>(code_point_at(character, 0).value)); }

}  // namespace

BytePairEncoding::BytePairEncoding(Vocabulary vocabulary, size_t merges) : vocabulary_(std::move(vocabulary)), merges_(merges) {}

BytePairEncoding BytePairEncoding::parse(const json& model, const std::string& where, bool is_byte_level) {
  FieldReader fields(model, where);
  fields.find_string("type");
  if (const auto dropout = fields.find_number("dropout"); dropout && *dropout != 0) throw Error(ErrorKind::input, fmt::format("{}: dropout {} is not supported", where, *dropout));
  const bool falls_back = fields.find_bool("byte_fallback").value_or(false);
  const bool fuses_unknown = fields.find_bool("fuse_unk").value_or(false);
  const bool ignores_merges = fields.find_bool("ignore_merges").value_or(false);
  const std::string prefix = fields.find_string("continuing_subword_prefix").value_or("");
  const std::string suffix = fields.find_string("end_of_word_suffix").value_or("");
  check_affix(prefix, "continuing_subword_prefix", where);
  check_affix(suffix, "end_of_word_suffix", where);
  const std::string unknown = fields.find_string("unk_token").value_or("");
  const json* ids = fields.find("vocab");
  const std::vector<std::string> symbols = read_user_defined_symbols(fields);
  const json* merges = fields.find("merges");
  if (!ids) throw Error(ErrorKind::input, fmt::format("{}: field \"vocab\" is missing", where));
  if (!merges || !merges->is_array()) throw Error(ErrorKind::input, fmt::format("{}: field \"merges\" is missing or not a list", where));
  fields.finish();

  BytePairEncoding result(Vocabulary::parse(*ids, where + ": vocab"), merges->size());
  result.unknown_ = unknown;
  result.prefix_ = prefix;
  result.suffix_ = suffix;
  result.fuses_unknown_ = fuses_unknown;
  result.falls_back_to_bytes_ = falls_back;
  result.ignores_merges_ = ignores_merges;
  if (!symbols.empty()) result.whole_symbols_.emplace();
  for (const std::string& symbol : symbols) {
    const auto id = result.vocabulary_.find_id(symbol);
    if (!id) throw Error(ErrorKind::input, fmt::format("{}: user_defined_symbols: {} is not in the vocabulary", where, json(symbol).dump()));
    result.whole_symbols_->add(symbol, static_cast<size_t>(*id));
  }
  result.takes_bytes_ = is_byte_level && !falls_back && prefix.empty() && suffix.empty();
  for (int byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    const std::string token = result.takes_bytes_ ? spell_bytes({&raw, 1}) : byte_token(static_cast<unsigned char>(byte));
    result.byte_ids_[static_cast<size_t>(byte)] = result.vocabulary_.find_id(token).value_or(no_token);
  }
  if (!unknown.empty() && std::ranges::count(result.byte_ids_, no_token) > 0) result.takes_bytes_ = false;  // a byte may be unknown
  result.read_merges(*merges, where + ": merges");
  if (ignores_merges && result.takes_bytes_)
    for (const auto& [token, id] : result.vocabulary_.ids())
      if (auto bytes = find_spelled_bytes(token)) result.whole_words_.emplace(std::move(*bytes), id);
  result.cuts_at_spaces_ = result.can_cut_at_spaces();
  return result;
}

void BytePairEncoding::read_merges(const json& list, const std::string& where) {
  Problems problems;
  uint32_t rank = 0;
  for (const json& merge : list) {
    if (is_version_line(merge)) continue;
    const auto pair = find_pair(merge);
    if (!pair) {
      problems.add(fmt::format("merge {}: expected \"a b\" or [\"a\", \"b\"], found {}", rank, merge.dump()));
      continue;
    }
    const auto& [left, right] = *pair;
    if (!right.starts_with(prefix_)) {
      problems.add(fmt::format("merge {} of \"{}\" and \"{}\": the second does not start with the continuing_subword_prefix \"{}\"", rank, left, right, prefix_));
      continue;
    }
    const std::string both = left + right.substr(prefix_.size());
    for (const std::string& token : {left, right, both})
      if (!vocabulary_.find_id(token)) problems.add(fmt::format("merge {} of \"{}\" and \"{}\": \"{}\" is not in the vocabulary", rank, left, right, token));
    if (problems.empty()) merges_.set(*vocabulary_.find_id(left), *vocabulary_.find_id(right), {.rank = rank, .id = *vocabulary_.find_id(both)});
    merges_cross_spaces_ |= right.starts_with(space_mark) && !left.ends_with(space_mark);
    ++rank;
  }
  problems.throw_if_any(ErrorKind::input, where);
}

bool BytePairEncoding::can_cut_at_spaces() const {
  return !whole_symbols_ && !takes_bytes_ && !ignores_merges_ && !merges_cross_spaces_ && prefix_.empty() && suffix_.empty() && vocabulary_.find_id(space_mark);
}

size_t BytePairEncoding::find_cut(std::string_view word, size_t begin) const {
  if (!cuts_at_spaces_) return word.size();
  while (word.substr(begin).starts_with(space_mark)) begin += space_mark.size();
  return std::min(word.find(space_mark, begin), word.size());
}

std::vector<int32_t> BytePairEncoding::byte_symbols(std::string_view word) const {
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  for (char c : word) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte_ids_[byte] == no_token) throw Error(ErrorKind::input, fmt::format("text: the vocabulary has no token for byte 0x{:02X}", byte));
    symbols.push_back(byte_ids_[byte]);
  }
  return symbols;
}

/// Byte tokens, when there is one for every byte.
bool BytePairEncoding::append_byte_tokens(std::string_view text, std::vector<int32_t>& symbols) const {
  const auto id_of = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (!falls_back_to_bytes_ || std::ranges::any_of(text, [&](char byte) { return id_of(byte) == no_token; })) return false;
  for (char byte : text) symbols.push_back(id_of(byte));
  return true;
}

std::vector<int32_t> BytePairEncoding::character_symbols(std::string_view word) const {
  std::vector<int32_t> symbols;
  bool unknown_waits = false;  // goes before the next known character (but after byte tokens, as in Hugging Face's)
  std::optional<int32_t> unknown;
  std::string decorated;
  for (size_t at = 0; at < word.size();) {
    const std::string_view character = word.substr(at, code_point_at(word, at).bytes);
    size_t whole_end = at, whole = 0;
    if (whole_symbols_) whole_symbols_->for_each_at(word, at, [&](size_t end, size_t id) { whole_end = end, whole = id; });
    if (whole_end > at) {
      if (std::exchange(unknown_waits, false)) symbols.push_back(*unknown);
      symbols.push_back(static_cast<int32_t>(whole));
      at = whole_end;
      continue;
    }
    const bool is_first = at == 0;
    at += character.size();
    std::string_view symbol = character;
    if (!prefix_.empty() || !suffix_.empty()) {
      decorated = is_first ? "" : prefix_;
      decorated += character;
      if (at == word.size()) decorated += suffix_;
      symbol = decorated;
    }
    if (const auto id = vocabulary_.find_id(symbol)) {
      if (std::exchange(unknown_waits, false)) symbols.push_back(*unknown);
      symbols.push_back(*id);
      continue;
    }
    if (append_byte_tokens(symbol, symbols)) continue;
    if (unknown_.empty()) throw Error(ErrorKind::input, fmt::format("text: the vocabulary has no token for the character {}", describe(character)));
    if (!unknown) unknown = vocabulary_.find_id(unknown_);
    if (!unknown) throw Error(ErrorKind::input, fmt::format("text: the character {} has no token, and unk_token \"{}\" is not in the vocabulary", describe(character), unknown_));
    if (unknown_waits && !fuses_unknown_) symbols.push_back(*unknown);
    unknown_waits = true;
  }
  if (unknown_waits) symbols.push_back(*unknown);
  return symbols;
}

void BytePairEncoding::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignores_merges_) {
    const auto& known = takes_bytes_ ? whole_words_ : vocabulary_.ids();
    if (const auto whole = known.find(word); whole != known.end()) return ids.push_back(whole->second);
  }
  if (word.size() >= INT32_MAX / 4) throw Error(ErrorKind::input, fmt::format("text: a word of {} bytes is too long", word.size()));
  merge_pairs(takes_bytes_ ? byte_symbols(word) : character_symbols(word), merges_, ids);
}

}  // namespace llmc
