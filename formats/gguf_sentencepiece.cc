#include "formats/gguf_sentencepiece.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>

#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr const char* scores_key = "tokenizer.ggml.scores";

std::vector<float> read_scores(const GgufMetadata& metadata, size_t count) {
  const auto describe = [&](const std::string& found) { return Error(ErrorKind::input, fmt::format("{}: key {}: expected {} numbers of type f32, found {}", metadata.where(), scores_key, count, found)); };
  const GgufValue* value = metadata.find(scores_key);
  if (!value) throw describe("none");
  const auto* array = std::get_if<GgufArray>(&value->value);
  if (!array || array->element != GgufValueType::f32) throw describe("another type");
  if (array->size() != count) throw describe(std::to_string(array->size()));
  std::vector<float> scores(count);
  if (count > 0) std::memcpy(scores.data(), std::get<std::vector<std::byte>>(array->items).data(), count * sizeof(float));
  for (float score : scores)
    if (!std::isfinite(score)) throw describe(std::to_string(score));
  return scores;
}

}  // namespace

SentencePieceModel read_gguf_sentencepiece(const GgufMetadata& metadata, const std::vector<std::string>& tokens, const std::vector<int64_t>& types) {
  const std::vector<float> scores = read_scores(metadata, tokens.size());
  SentencePieceModel model;
  model.kind = SentencePieceModel::Kind::bpe;
  model.falls_back_to_bytes = true;
  model.adds_dummy_prefix = metadata.find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  model.removes_spaces = metadata.find_bool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  for (size_t id = 0; id < tokens.size(); ++id) model.pieces.push_back({tokens[id], scores[id], static_cast<PieceType>(types[id])});
  return model;
}

namespace {


[[noreturn]] void fail(const std::string& where, const std::string& what) { throw Error(ErrorKind::input, fmt::format("{}: {}", where, what)); }

/// [a, b] or "a b", whose parts hold no space.
std::pair<std::string, std::string> read_merge(const json& merge, const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  const std::string text = merge.is_string() ? merge.get<std::string>() : "";
  const size_t space = text.find(' ');
  if (space == std::string::npos) fail(where, fmt::format("model: merges: expected \"a b\" or [\"a\", \"b\"], found {}", merge.dump()));
  return {text.substr(0, space), text.substr(space + 1)};
}

bool is_within_character(char byte) { return (byte & 0xC0) == 0x80; }
bool is_character(std::string_view text) { return !text.empty() && std::all_of(text.begin() + 1, text.end(), is_within_character); }

/// Of the list of merges, by token.
struct MergeOrder {
  std::vector<int64_t> rank;  ///< that all merges have that make the token; −1 where none does
  std::vector<int64_t> ways;  ///< how many merges make it
  int64_t count = 0;          ///< of ranks
};

/// Tokens whose merges lie among each other's have one rank: transformers sorts the merges of pieces with the same score by the
/// length of the first part.
MergeOrder order_merges(const std::unordered_map<std::string_view, size_t>& ids, size_t pieces, const json& merges, const std::string& where) {
  MergeOrder order{.rank = std::vector<int64_t>(pieces, -1), .ways = std::vector<int64_t>(pieces, 0)};
  std::vector<size_t> made, letters, last(pieces, 0);
  for (const json& entry : merges) {
    const auto [left, right] = read_merge(entry, where);
    const auto id = ids.find(left + right);
    if (id == ids.end()) fail(where, fmt::format("model: merges: \"{}\" and \"{}\" make no token", left, right));
    last[id->second] = made.size();
    ++order.ways[id->second];
    made.push_back(id->second);
    letters.push_back(static_cast<size_t>(std::ranges::count_if(left, [](char byte) { return !is_within_character(byte); })));
  }
  size_t end = 0;  // of the merges of one rank
  bool is_shared = false;
  for (size_t i = 0; i < made.size(); ++i) {
    const bool is_new = i == 0 || i > end;
    if (is_new) ++order.count, is_shared = false;
    if (!is_new && made[i] != made[i - 1]) is_shared = true;
    end = std::max(is_new ? i : end, last[made[i]]);
    if (!is_new && (is_shared || made[end] != made[i]) && letters[i] > letters[i - 1]) fail(where, fmt::format("model: merges: those that make \"{}\" are apart; llama.cpp has one score for each token", std::string(merges[i].dump())));
    order.rank[made[i]] = order.count - 1;
  }
  return order;
}

/// llama.cpp merges any two neighbours that make a piece.
void check_complete(const std::vector<Piece>& pieces, const std::unordered_map<std::string_view, size_t>& ids, const MergeOrder& order, const std::string& where) {
  for (size_t id = 0; id < pieces.size(); ++id) {
    const std::string_view text = pieces[id].text;
    if (pieces[id].type != PieceType::normal) continue;
    if (text.size() > most_piece_bytes) fail(where, fmt::format("token {}: has {} bytes; at most {} are supported", id, text.size(), most_piece_bytes));
    const auto can_be = [&](std::string_view part) { return ids.contains(part) || is_character(part); };
    int64_t ways = 0;
    for (size_t left = 1; left < text.size(); ++left)
      if (!is_within_character(text[left]) && can_be(text.substr(0, left)) && can_be(text.substr(left))) ++ways;
    if (ways != order.ways[id]) fail(where, fmt::format("token \"{}\": {} of {} ways to make it of two others are merges; llama.cpp takes all", text, order.ways[id], ways));
  }
}

/// Whether the scores of a tokenizer.model order its pieces as the merges do.
bool says_same(const SentencePieceModel& source, const std::vector<Piece>& pieces, const MergeOrder& order) {
  std::vector<std::optional<double>> by_rank(static_cast<size_t>(order.count));
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (order.rank[id] < 0 || pieces[id].type != PieceType::normal) continue;
    if (id >= source.pieces.size() || source.pieces[id].text != pieces[id].text) return false;
    std::optional<double>& score = by_rank[static_cast<size_t>(order.rank[id])];
    if (score && *score != source.pieces[id].score) return false;
    score = source.pieces[id].score;
  }
  std::erase(by_rank, std::nullopt);
  return std::ranges::is_sorted(by_rank, std::greater<>());
}

}  // namespace

bool is_sentencepiece(const json& tokenizer) {
  const auto model = tokenizer.find("model");
  return model != tokenizer.end() && model->is_object() && model->value("type", "BPE") == "BPE" && model->value("byte_fallback", false);
}

bool adds_space_prefix(const json& tokenizer, const std::string& where) {
  bool prepends = false, replaces = false;
  const json own = tokenizer.value("normalizer", json());  // of a tokenizer.model with user-defined symbols
  if (own.is_object() && own.value("type", "") == "SentencePiece" && own.value("precompiled_charsmap", "") == "" && !own.value("remove_extra_whitespaces", true) && !own.value("treat_whitespace_as_suffix", true))
    return own.value("add_dummy_prefix", true);
  const json normalizer = tokenizer.value("normalizer", json()), pre_tokenizer = tokenizer.value("pre_tokenizer", json());
  const json steps = normalizer.is_null() ? json::array() : normalizer.value("type", "") == "Sequence" ? normalizer.at("normalizers") : json::array({normalizer});
  for (const json& step : steps) {
    if (step == json{{"type", "Prepend"}, {"prepend", space_mark}} && !prepends) prepends = true;
    else if (step == json{{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space_mark}} && !replaces) replaces = true;
    else fail(where, fmt::format("normalizer {}: llama.cpp does not have it", step.dump()));
  }
  if (!pre_tokenizer.is_null()) {
    const bool is_metaspace = pre_tokenizer.value("type", "") == "Metaspace" && pre_tokenizer.value("replacement", "") == space_mark && !pre_tokenizer.value("split", true);
    const bool finds_none = replaces && pre_tokenizer == json{{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}};
    if (!(is_metaspace && steps.empty()) && !finds_none) fail(where, fmt::format("pre_tokenizer {}: llama.cpp does not have it", pre_tokenizer.dump()));
    if (is_metaspace) prepends = pre_tokenizer.value("prepend_scheme", "always") != "never", replaces = true;
  }
  if (!replaces) fail(where, "normalizer: does not replace spaces, but llama.cpp does");
  return prepends;
}

void score_pieces(std::vector<Piece>& pieces, const json& tokenizer, const std::optional<SentencePieceModel>& source, const std::string& where) {
  constexpr double added_score = -1000, unused_score = -10000;  // convert_hf_to_gguf.py's
  const json& model = tokenizer.at("model");
  if (model.value("ignore_merges", false)) fail(where, "model: ignore_merges: llama.cpp does not have it for SentencePiece");
  std::unordered_map<std::string_view, size_t> ids;
  const json& vocabulary = model.at("vocab");
  for (const auto& [text, id] : vocabulary.items()) ids.emplace(text, id.get<size_t>());
  for (int byte = 0; byte < 256; ++byte) {
    const auto id = ids.find(fmt::format("<0x{:02X}>", byte));
    if (id == ids.end()) fail(where, fmt::format("model: vocab: lacks <0x{:02X}>; llama.cpp needs all 256 bytes", byte));
    pieces.at(id->second).type = PieceType::byte;
  }
  if (const auto unknown = model.find("unk_token"); unknown != model.end() && unknown->is_string())
    if (const auto id = ids.find(unknown->get_ref<const std::string&>()); id != ids.end()) pieces.at(id->second).type = PieceType::unknown;
  const MergeOrder order = order_merges(ids, pieces.size(), model.at("merges"), where);
  check_complete(pieces, ids, order, where);

  const bool keeps_scores = source && says_same(*source, pieces, order);
  for (size_t id = 0; id < pieces.size(); ++id) {
    Piece& piece = pieces[id];
    const bool is_added = piece.type == PieceType::control || piece.type == PieceType::user_defined;
    const Piece* original = keeps_scores && id < source->pieces.size() ? &source->pieces[id] : nullptr;
    if (piece.type == PieceType::unused && original) piece.text = original->text;
    if (original && (!is_added || original->text == piece.text)) piece.score = original->score;
    else if (is_added) piece.score = added_score;
    else if (piece.type == PieceType::unused) piece.score = unused_score;
    else if (piece.type == PieceType::normal) piece.score = -static_cast<double>(order.rank[id] >= 0 ? order.rank[id] : order.count);
  }
}

}  // namespace llmc
