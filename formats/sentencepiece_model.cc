#include "formats/sentencepiece_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/json.h"
#include "core/utf8.h"
#include "formats/wire_reader.h"

namespace llmc {

using nlohmann::json;

namespace {

Piece read_piece(std::string_view message, const std::string& where) {
  Piece piece;
  for_each_field(message, where, [&](const WireField& field) {
    if (field.number == 1) piece.text = field.contents;
    if (field.number == 2) piece.score = field.as_float();
    if (field.number != 3) return;
    if (field.value < 1 || field.value > 6) throw Error(ErrorKind::input, fmt::format("{}: expected a type from 1 to 6, found {}", where, field.value));
    piece.type = static_cast<PieceType>(field.value);
  });
  if (piece.text.size() > most_piece_bytes) throw Error(ErrorKind::input, fmt::format("{}: has {} bytes; at most {} are supported", where, piece.text.size(), most_piece_bytes));
  if (piece.text.empty()) throw Error(ErrorKind::input, where + ": has no text");
  if (const auto bad = find_invalid_utf8(piece.text)) throw Error(ErrorKind::input, where + ": " + describe_invalid_utf8(piece.text, *bad));
  if (!std::isfinite(piece.score)) throw Error(ErrorKind::input, fmt::format("{}: score {} is not finite", where, piece.score));
  return piece;
}

/// RFC 4648, section 4.
std::string encode_base64(std::string_view bytes) {
  static constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    uint32_t bits = 0;
    for (size_t b = 0; b < 3; ++b) bits = bits << 8 | (b < count ? static_cast<unsigned char>(bytes[i + b]) : 0u);
    for (size_t c = 0; c < 4; ++c) text += c <= count ? alphabet[bits >> (18 - 6 * c) & 63] : '=';
  }
  return text;
}

json replace(const char* kind, std::string_view pattern, std::string_view content) { return {{"type", "Replace"}, {"pattern", {{kind, pattern}}}, {"content", content}}; }

bool is_written(PieceType type) { return type == PieceType::normal || type == PieceType::user_defined; }

/// Every way to make a piece of two others, best score first; of one score the longer first part, as transformers sorts them.
json make_merges(const std::vector<Piece>& pieces, SentencePieceModel::Reader reader, const std::string& where) {
  struct Way {
    const Piece* piece;
    size_t left;     ///< bytes of the first part
    size_t letters;  ///< characters of the first part
  };
  const bool merges_symbols = reader == SentencePieceModel::Reader::transformers;  // user-defined ones, which SentencePiece leaves whole
  std::unordered_map<std::string_view, const Piece*> known;
  for (const Piece& piece : pieces)
    if (piece.type != PieceType::unused && (merges_symbols || piece.type != PieceType::user_defined)) known.emplace(piece.text, &piece);
  std::vector<Way> ways;
  size_t bytes = 0;
  for (const Piece& piece : pieces) {
    if (!is_written(piece.type) || (!merges_symbols && piece.type == PieceType::user_defined)) continue;
    const std::string_view text = piece.text;
    if (text.size() > most_piece_bytes) throw Error(ErrorKind::input, fmt::format("{}: piece {}: has {} bytes; at most {} are supported", where, &piece - pieces.data(), text.size(), most_piece_bytes));
    size_t letters = 0;
    for (size_t left = 1; left < text.size(); ++left) {
      if ((text[left] & 0xC0) == 0x80) continue;  // within a character
      ++letters;
      if (!known.contains(text.substr(0, left)) || !known.contains(text.substr(left))) continue;
      ways.push_back({&piece, left, letters});
      bytes += text.size();
      if (bytes > most_merge_bytes || ways.size() > most_merges) throw Error(ErrorKind::input, fmt::format("{}: its pieces can be made of others in more than {} ways, or ways of {} bytes", where, most_merges, most_merge_bytes));
    }
  }
  std::ranges::stable_sort(ways, [](const Way& a, const Way& b) { return std::tuple(-a.piece->score, -static_cast<int64_t>(a.letters)) < std::tuple(-b.piece->score, -static_cast<int64_t>(b.letters)); });
  json merges = json::array();
  for (const Way& way : ways) merges.push_back({way.piece->text.substr(0, way.left), way.piece->text.substr(way.left)});
  return merges;
}

/// User-defined pieces, which SentencePiece finds in texts before all else.
json list_symbols(const std::vector<Piece>& pieces) {
  json symbols = json::array();
  for (const Piece& piece : pieces)
    if (piece.type == PieceType::user_defined) symbols.push_back(piece.text);
  return symbols;
}

/// SentencePiece keeps the pieces that are text apart from the others, and each of the two without a piece twice.
void check_unique(const std::vector<Piece>& pieces, const std::string& where) {
  std::unordered_set<std::string_view> written, other;
  for (const Piece& piece : pieces) {
    const bool is_text = is_written(piece.type) || piece.type == PieceType::unused;
    if (!(is_text ? written : other).insert(piece.text).second) throw Error(ErrorKind::input, fmt::format("{}: piece \"{}\" is there twice", where, piece.text));
  }
}

json make_scored_model(const SentencePieceModel& model) {
  json pieces = json::array();
  for (const Piece& piece : model.pieces) pieces.push_back({piece.text, piece.score, static_cast<unsigned>(piece.type)});
  return {{"type", "SentencePiece"}, {"kind", model.kind == SentencePieceModel::Kind::word ? "word" : "unigram"}, {"pieces", std::move(pieces)}, {"byte_fallback", model.falls_back_to_bytes}};
}

json make_merging_model(const SentencePieceModel& model, const std::optional<size_t>& unknown, SentencePieceModel::Reader reader, const std::string& where) {
  json vocabulary = json::object();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (piece.type != PieceType::unused && !vocabulary.emplace(piece.text, id).second) throw Error(ErrorKind::input, fmt::format("{}: piece \"{}\" is there twice", where, piece.text));
  }
  json merges = model.kind == SentencePieceModel::Kind::character ? json::array() : make_merges(model.pieces, reader, where);
  json result = {{"type", "BPE"}, {"unk_token", unknown ? json(model.pieces[*unknown].text) : json()}, {"fuse_unk", true}, {"byte_fallback", model.falls_back_to_bytes}, {"vocab", std::move(vocabulary)}, {"merges", std::move(merges)}};
  json symbols = list_symbols(model.pieces);
  if (reader == SentencePieceModel::Reader::llmc && !symbols.empty()) result["user_defined_symbols"] = std::move(symbols);
  return result;
}

/// As transformers' library has them.
json make_normalizers(const SentencePieceModel& model) {
  json normalizers = json::array();
  if (!model.charsmap.empty()) normalizers.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", encode_base64(model.charsmap)}});
  if (model.removes_spaces) {
    normalizers.push_back(replace("Regex", "\\A +", ""));
    normalizers.push_back(replace("Regex", " {2,}", " "));
  }
  if (model.adds_dummy_prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", space_mark}});
  normalizers.push_back(replace("String", " ", space_mark));
  if (model.removes_spaces) normalizers.push_back(replace("Regex", fmt::format("{}+\\z", space_mark), ""));  // marks in the text, too
  return {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}};
}

json make_normalizer(const SentencePieceModel& model, SentencePieceModel::Reader reader) {
  json symbols = list_symbols(model.pieces);
  const bool is_plain = model.charsmap.empty() && !model.removes_spaces && !model.marks_ends && symbols.empty();
  if (is_plain || reader == SentencePieceModel::Reader::transformers) return make_normalizers(model);
  return {{"type", "SentencePiece"}, {"precompiled_charsmap", encode_base64(model.charsmap)}, {"user_defined_symbols", std::move(symbols)}, {"add_dummy_prefix", model.adds_dummy_prefix},
          {"remove_extra_whitespaces", model.removes_spaces}, {"treat_whitespace_as_suffix", model.marks_ends}};
}

}  // namespace

json make_bos_template(const std::string& token, size_t id) {
  const json special = {{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  const json first = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, second = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  return {{"type", "TemplateProcessing"}, {"single", {special, first}}, {"pair", {special, first, special, second}}, {"special_tokens", {{token, {{"id", token}, {"ids", {id}}, {"tokens", {token}}}}}}};
}

SentencePieceModel SentencePieceModel::parse(std::string_view file, const std::string& where) {
  SentencePieceModel model;
  const auto read_trainer = [&](const WireField& field) {
    if (field.number == 3 && (field.value < 1 || field.value > 4)) throw Error(ErrorKind::input, fmt::format("{}: trainer_spec: model_type {} is not supported (known: 1, unigram; 2, BPE; 3, words; 4, characters)", where, field.value));
    if (field.number == 3) model.kind = static_cast<Kind>(field.value);
    if (field.number == 24) model.marks_ends = field.value != 0;
    if (field.number == 46) model.bos = field.contents;
    if (field.number == 47) model.eos = field.contents;
    if (field.number == 35) model.falls_back_to_bytes = field.value != 0;
  };
  const auto read_normalizer = [&](const WireField& field) {
    if (field.number == 2) model.charsmap = field.contents;
    if (field.number == 3) model.adds_dummy_prefix = field.value != 0;
    if (field.number == 4) model.removes_spaces = field.value != 0;
    if (field.number == 5 && field.value == 0) throw Error(ErrorKind::input, where + ": normalizer_spec: escape_whitespaces false is not supported");
  };
  for_each_field(file, where, [&](const WireField& field) {
    if (field.number == 1) model.pieces.push_back(read_piece(field.contents, fmt::format("{}: piece {}", where, model.pieces.size())));
    if (field.number == 2) for_each_field(field.contents, where + ": trainer_spec", read_trainer);
    if (field.number == 3) for_each_field(field.contents, where + ": normalizer_spec", read_normalizer);
  });
  if (model.pieces.empty()) throw Error(ErrorKind::input, where + ": holds no pieces");
  return model;
}

const Piece* SentencePieceModel::find_piece(std::string_view text) const {
  const auto piece = std::ranges::find(pieces, text, &Piece::text);
  return piece == pieces.end() ? nullptr : &*piece;
}

json SentencePieceModel::make_tokenizer(const std::optional<std::string>& first_token, const std::string& where, Reader reader) const {
  json added = json::array(), post_processor;
  std::optional<size_t> unknown;
  const bool finds_symbols = reader == Reader::transformers;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const Piece& piece = pieces[id];
    if (piece.type == PieceType::unknown) unknown = id;
    if (first_token == piece.text) post_processor = make_bos_template(piece.text, id);
    if (piece.type == PieceType::unknown || piece.type == PieceType::control || (finds_symbols && piece.type == PieceType::user_defined))
      added.push_back({{"id", id}, {"content", piece.text}, {"normalized", false}, {"special", piece.type != PieceType::user_defined}});
  }
  if (last_token) {
    const Piece* last = find_piece(*last_token);
    if (!last) throw Error(ErrorKind::input, fmt::format("{}: has no piece \"{}\" to end texts with", where, *last_token));
    if (post_processor.is_null()) post_processor = {{"type", "TemplateProcessing"}, {"single", {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}, {"pair", json::array()}, {"special_tokens", json::object()}};
    post_processor["single"].push_back({{"SpecialToken", {{"id", *last_token}, {"type_id", 0}}}});
    post_processor["special_tokens"][*last_token] = {{"id", *last_token}, {"ids", {last - pieces.data()}}, {"tokens", {*last_token}}};
  }
  check_unique(pieces, where);
  json decoders = {replace("String", space_mark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (adds_dummy_prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", marks_ends ? 0 : 1}, {"stop", marks_ends ? 1 : 0}});
  json model = kind == Kind::bpe || kind == Kind::character ? make_merging_model(*this, unknown, reader, where) : make_scored_model(*this);
  return {{"version", "1.0"}, {"added_tokens", std::move(added)}, {"normalizer", make_normalizer(*this, reader)}, {"post_processor", std::move(post_processor)}, {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}}, {"model", std::move(model)}};
}

}  // namespace llmc
