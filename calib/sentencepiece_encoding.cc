#include "calib/sentencepiece_encoding.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/utf8.h"
#include "formats/sentencepiece_model.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr float unknown_piece_penalty = 10;  // below the least score
constexpr float largest_sum = 100'000;       // beyond it sums start again from zero, lest float32 swallow the differences

}  // namespace

SentencePieceEncoding SentencePieceEncoding::parse(const json& model, const std::string& where) {
  FieldReader fields(model, where);
  fields.find_string("type");
  const std::string kind = fields.get_string("kind");
  const json* list = fields.find("pieces");
  const bool falls_back = fields.find_bool("byte_fallback").value_or(false);
  fields.finish();
  if (kind != "unigram" && kind != "word") throw Error(ErrorKind::input, fmt::format("{}: kind \"{}\" is not supported", where, kind));
  if (!list || !list->is_array() || list->empty()) throw Error(ErrorKind::input, fmt::format("{}: field \"pieces\" is missing or not a list", where));
  std::vector<std::string> texts;
  std::vector<PieceType> types;
  std::vector<float> scores;
  for (const json& entry : *list) {
    const bool is_piece = entry.is_array() && entry.size() == 3 && entry[0].is_string() && entry[1].is_number() && entry[2].is_number_unsigned() && entry[2] >= 1 && entry[2] <= 6;
    if (!is_piece || !std::isfinite(entry[1].get<float>())) throw Error(ErrorKind::input, fmt::format("{}: piece {}: expected [\"text\", score, type], found {}", where, texts.size(), entry.dump()));
    texts.push_back(entry[0].get<std::string>());
    scores.push_back(entry[1].get<float>());
    types.push_back(static_cast<PieceType>(entry[2].get<int>()));
  }

  SentencePieceEncoding result(Vocabulary::from_list(texts, where + ": pieces"));
  result.scores_ = std::move(scores);
  result.is_word_ = kind == "word";
  result.least_score_ = std::numeric_limits<float>::max();
  bool has_unknown = false;
  for (size_t id = 0; id < texts.size(); ++id) {
    const PieceType type = types[id];
    if (type == PieceType::user_defined) result.scores_[id] = static_cast<float>(0.1 * static_cast<double>(texts[id].size() - 1));  // more than any logarithm
    if (type == PieceType::unknown) result.unknown_ = static_cast<int32_t>(id), has_unknown = true;
    if (type == PieceType::normal || type == PieceType::user_defined) result.pieces_.add(texts[id], id);
    if (type != PieceType::normal) continue;
    result.least_score_ = std::min(result.least_score_, result.scores_[id]);
  }
  if (!has_unknown) throw Error(ErrorKind::input, where + ": has no piece for what is unknown");
  if (falls_back)
    for (int byte = 0; byte < 256; ++byte) {
      const auto id = result.vocabulary_.find_id(byte_token(static_cast<unsigned char>(byte)));
      if (!id) throw Error(ErrorKind::input, fmt::format("{}: has no piece {}, but falls back to bytes", where, byte_token(static_cast<unsigned char>(byte))));
      result.byte_ids_.push_back(*id);
    }
  return result;
}

std::vector<SentencePieceEncoding::Part> SentencePieceEncoding::find_best_cut(std::string_view text) const {
  constexpr size_t nowhere = SIZE_MAX;
  struct Node {
    size_t begin = nowhere;  ///< of the last piece of the best cut of what ends here
    float score = 0;         ///< of that cut
    int32_t id = 0;
  };
  std::vector<Node> nodes(text.size() + 1);
  size_t frontier = 0;  // the furthest end that was offered
  const auto offer = [&](size_t begin, size_t end, float total, int32_t id) {
    frontier = std::max(frontier, end);
    if (nodes[end].begin == nowhere || total > nodes[end].score) nodes[end] = {.begin = begin, .score = total, .id = id};
  };
  for (size_t begin = 0; begin < text.size();) {
    const size_t next = begin + code_point_at(text, begin).bytes;
    if (const float base = nodes[begin].score; std::abs(base) > largest_sum)
      for (size_t end = begin; end <= frontier; ++end) nodes[end].score -= base;
    const float before = nodes[begin].score;
    bool has_character = false;
    pieces_.for_each_at(text, begin, [&](size_t end, size_t id) {
      offer(begin, end, scores_[id] + before, static_cast<int32_t>(id));
      has_character |= end == next;
    });
    if (!has_character) offer(begin, next, least_score_ - unknown_piece_penalty + before, unknown_);
    begin = next;
  }
  std::vector<Part> parts;
  for (size_t end = text.size(); end > 0; end = nodes[end].begin) parts.push_back({text.substr(nodes[end].begin, end - nodes[end].begin), nodes[end].id});
  std::ranges::reverse(parts);
  return parts;
}

std::vector<SentencePieceEncoding::Part> SentencePieceEncoding::find_words(std::string_view text) const {
  std::vector<Part> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(space_mark, begin + 1), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    parts.push_back({word, vocabulary_.find_id(word).value_or(unknown_)});
    begin = end;
  }
  return parts;
}

void SentencePieceEncoding::encode(std::string_view text, std::vector<int32_t>& ids) const {
  bool last_is_unknown = false;
  for (const Part& part : is_word_ ? find_words(text) : find_best_cut(text)) {
    const bool is_unknown = part.id == unknown_;
    if (is_unknown && !byte_ids_.empty()) {
      for (char byte : part.text) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
    } else if (!is_unknown || !last_is_unknown) {
      ids.push_back(part.id);
    }
    last_is_unknown = is_unknown;
  }
}

}  // namespace llmc
