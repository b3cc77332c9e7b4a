#include "calib/byte_pair_encoding.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <queue>

#include "calib/byte_alphabet.h"
#include "core/error.h"
#include "core/json.h"

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

void refuse_unless_empty(FieldReader& fields, const std::string& key) {
  const auto value = fields.find_string(key);
  if (value && !value->empty()) throw Error(ErrorKind::input, fmt::format("{}: {} \"{}\" is not supported", fields.where(), key, *value));
}

}  // namespace

BytePairEncoding::BytePairEncoding(Vocabulary vocabulary, size_t merges) : vocabulary_(std::move(vocabulary)), merges_(merges) {
  for (int byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    byte_ids_[static_cast<size_t>(byte)] = vocabulary_.find_id(spell_bytes({&raw, 1})).value_or(-1);
  }
}

BytePairEncoding BytePairEncoding::parse(const json& model, const std::string& where) {
  FieldReader fields(model, where);
  fields.find_string("type");
  fields.find_bool("fuse_unk");  // without an unknown token there is nothing to fuse
  if (const auto dropout = fields.find_number("dropout"); dropout && *dropout != 0) throw Error(ErrorKind::input, fmt::format("{}: dropout {} is not supported", where, *dropout));
  if (fields.find_bool("byte_fallback").value_or(false)) throw Error(ErrorKind::input, where + ": byte_fallback is not supported");
  refuse_unless_empty(fields, "continuing_subword_prefix");
  refuse_unless_empty(fields, "end_of_word_suffix");
  const auto unknown = fields.find_string("unk_token");
  const bool ignore_merges = fields.find_bool("ignore_merges").value_or(false);
  const json* ids = fields.find("vocab");
  const json* merges = fields.find("merges");
  if (!ids) throw Error(ErrorKind::input, fmt::format("{}: field \"vocab\" is missing", where));
  if (!merges || !merges->is_array()) throw Error(ErrorKind::input, fmt::format("{}: field \"merges\" is missing or not a list", where));
  fields.finish();

  BytePairEncoding result(Vocabulary::parse(*ids, where + ": vocab"), merges->size());
  if (unknown && std::ranges::count(result.byte_ids_, -1) > 0)
    throw Error(ErrorKind::input, fmt::format("{}: unk_token \"{}\" is not supported in a vocabulary that lacks bytes", where, *unknown));
  result.read_merges(*merges, where + ": merges");
  if (ignore_merges)
    for (const auto& [token, id] : result.vocabulary_.ids())
      if (auto bytes = find_spelled_bytes(token)) result.whole_words_.emplace(std::move(*bytes), id);
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
    const std::string both = left + right;
    for (const std::string& token : {left, right, both})
      if (!vocabulary_.find_id(token)) problems.add(fmt::format("merge {} of \"{}\" and \"{}\": \"{}\" is not in the vocabulary", rank, left, right, token));
    if (problems.empty()) merges_.set(*vocabulary_.find_id(left), *vocabulary_.find_id(right), {.rank = rank, .id = *vocabulary_.find_id(both)});
    ++rank;
  }
  problems.throw_if_any(ErrorKind::input, where);
}

namespace {

constexpr int32_t none = -1;

struct Symbol {
  int32_t id = none;  ///< none: it was merged into the symbol before it
  int32_t previous = none;
  int32_t next = none;
};

struct Candidate {
  Merge merge;
  int32_t left = 0;  ///< position of the left symbol

  /// The lowest rank first, and the leftmost of equals.
  bool operator>(const Candidate& other) const { return std::pair(merge.rank, left) > std::pair(other.merge.rank, other.left); }
};

/// The symbols of one word as a doubly linked list, and the merges that are possible in it.
class Word {
 public:
  Word(std::vector<Symbol> symbols, const MergeTable& merges) : symbols_(std::move(symbols)), merges_(merges) {
    for (size_t i = 0; i + 1 < symbols_.size(); ++i) consider(static_cast<int32_t>(i));
  }

  void merge_all() {
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      if (is_current(best)) apply(best);
    }
  }

  void append_ids(std::vector<int32_t>& ids) const {
    for (const Symbol& symbol : symbols_)
      if (symbol.id != none) ids.push_back(symbol.id);
  }

 private:
  Symbol& at(int32_t position) { return symbols_[static_cast<size_t>(position)]; }
  const Merge* find_merge(int32_t left) {
    const Symbol& symbol = at(left);
    return symbol.id == none || symbol.next == none ? nullptr : merges_.find(symbol.id, at(symbol.next).id);
  }
  void consider(int32_t left) {
    if (const Merge* merge = find_merge(left)) candidates_.push({*merge, left});
  }
  bool is_current(const Candidate& candidate) {
    const Merge* merge = find_merge(candidate.left);
    return merge && merge->id == candidate.merge.id;
  }
  void apply(const Candidate& candidate) {
    Symbol& left = at(candidate.left);
    Symbol& right = at(left.next);
    left.id = candidate.merge.id;
    left.next = right.next;
    right.id = none;
    if (left.next != none) at(left.next).previous = candidate.left;
    if (left.previous != none) consider(left.previous);
    consider(candidate.left);
  }

  std::vector<Symbol> symbols_;
  const MergeTable& merges_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates_;
};

}  // namespace

void BytePairEncoding::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (!whole_words_.empty()) {
    if (const auto whole = whole_words_.find(word); whole != whole_words_.end()) return ids.push_back(whole->second);
  }
  if (word.size() >= INT32_MAX) throw Error(ErrorKind::input, fmt::format("text: a word of {} bytes is too long", word.size()));
  std::vector<Symbol> symbols(word.size());
  for (size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    if (byte_ids_[byte] == none) throw Error(ErrorKind::input, fmt::format("text: the vocabulary has no token for byte 0x{:02X}", byte));
    const int32_t position = static_cast<int32_t>(i);
    symbols[i] = {.id = byte_ids_[byte], .previous = position - 1, .next = i + 1 < word.size() ? position + 1 : none};
  }
  Word merging(std::move(symbols), merges_);
  merging.merge_all();
  merging.append_ids(ids);
}

}  // namespace llmc
