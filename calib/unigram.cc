#include "calib/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/utf8.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr double unknown_penalty = 10;  // below the least score, as in SentencePiece

/// ["token", score]
struct UnigramPiece {
  std::string token;
  double score = 0;
};

std::vector<UnigramPiece> read_pieces(const json& list, const std::string& where) {
  std::vector<UnigramPiece> pieces;
  Problems problems;
  for (const json& entry : list) {
    const bool is_pair = entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_number();
    const double score = is_pair ? entry[1].get<double>() : std::numeric_limits<double>::quiet_NaN();
    if (std::isfinite(score)) pieces.push_back({entry[0].get<std::string>(), score});
    else problems.add(fmt::format("piece {}: expected [\"token\", score], found {}", &entry - &list.front(), entry.dump()));
  }
  problems.throw_if_any(ErrorKind::input, where);
  return pieces;
}

}  // namespace

Unigram Unigram::parse(const json& model, const std::string& where) {
  FieldReader fields(model, where);
  fields.find_string("type");
  const json* list = fields.find("vocab");
  const auto unknown = fields.find_int("unk_id");
  const bool falls_back = fields.find_bool("byte_fallback").value_or(false);
  fields.finish();
  if (!list || !list->is_array()) throw Error(ErrorKind::input, fmt::format("{}: field \"vocab\" is missing or not a list", where));
  const std::vector<UnigramPiece> pieces = read_pieces(*list, where + ": vocab");
  if (pieces.empty()) throw Error(ErrorKind::input, where + ": vocab: is empty");
  if (unknown && (*unknown < 0 || *unknown >= static_cast<int64_t>(pieces.size())))
    throw Error(ErrorKind::input, fmt::format("{}: unk_id {} is not in the vocabulary of {}", where, *unknown, pieces.size()));

  std::vector<std::string> tokens;
  for (const UnigramPiece& piece : pieces) tokens.push_back(piece.token);
  Unigram result(Vocabulary::from_list(tokens, where + ": vocab"));
  for (size_t id = 0; id < pieces.size(); ++id) {
    const bool is_last = result.vocabulary_.find_id(pieces[id].token) == static_cast<int32_t>(id);  // of those with the same text
    if (is_last && !pieces[id].token.empty()) result.tokens_.add(pieces[id].token, id);
    result.scores_.push_back(pieces[id].score);
  }
  result.unknown_score_ = std::ranges::min(result.scores_) - unknown_penalty;
  if (unknown) result.unknown_ = static_cast<int32_t>(*unknown);
  result.falls_back_to_bytes_ = falls_back;
  return result;
}

/// Parts of the word from left to right; neighbouring unknown characters are one part.
std::vector<std::string_view> Unigram::find_best_cut(std::string_view word) const {
  struct Node {
    double score = 0;                    ///< of the best cut of what ends here
    std::optional<size_t> begin;         ///< of its last token
    std::optional<int32_t> id;           ///< of that token; unknown_ for a character that none holds
  };
  std::vector<Node> nodes(word.size() + 1);
  const auto offer = [&](size_t begin, size_t end, double score, std::optional<int32_t> id) {
    const double total = score + nodes[begin].score;
    if (!nodes[end].begin || total > nodes[end].score) nodes[end] = {total, begin, id};
  };
  for (size_t begin = 0; begin < word.size();) {
    const size_t next = begin + code_point_at(word, begin).bytes;
    bool has_character = false;
    tokens_.for_each_at(word, begin, [&](size_t end, size_t id) {
      offer(begin, end, scores_[id], static_cast<int32_t>(id));
      has_character |= end == next;
    });
    if (!has_character) offer(begin, next, unknown_score_, unknown_);
    begin = next;
  }

  std::vector<std::string_view> parts;
  bool last_is_unknown = false;
  for (size_t end = word.size(); end > 0; end = *nodes[end].begin) {
    const size_t begin = *nodes[end].begin;
    const bool is_unknown = unknown_ && nodes[end].id == unknown_;
    if (is_unknown && last_is_unknown) parts.back() = word.substr(begin, parts.back().size() + end - begin);
    else parts.push_back(word.substr(begin, end - begin));
    last_is_unknown = is_unknown;
  }
  std::ranges::reverse(parts);
  return parts;
}

bool Unigram::append_byte_tokens(std::string_view text, std::vector<int32_t>& ids) const {
  const size_t before = ids.size();
  for (char byte : text) {
    const auto id = vocabulary_.find_id(byte_token(static_cast<unsigned char>(byte)));
    if (!id) {
      ids.resize(before);
      return false;
    }
    ids.push_back(*id);
  }
  return true;
}

void Unigram::encode(std::string_view word, std::vector<int32_t>& ids) const {
  for (std::string_view part : find_best_cut(word)) {
    if (const auto id = vocabulary_.find_id(part)) {
      ids.push_back(*id);
      continue;
    }
    if (falls_back_to_bytes_ && append_byte_tokens(part, ids)) continue;
    if (!unknown_) throw Error(ErrorKind::input, fmt::format("text: no token holds the character U+{:04X}, and there is no unk_id", static_cast<uint32_t>(code_point_at(part, 0).value)));
    ids.push_back(*unknown_);
  }
}

}  // namespace llmc
