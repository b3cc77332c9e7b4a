#include "formats/sentencepiece_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>

#include "core/error.h"
#include "core/json.h"
#include "formats/wire_reader.h"

namespace llmc {

using nlohmann::json;

namespace {


bool is_utf8(const std::string& text) try {
  return !json(text).dump().empty();
} catch (const json::exception&) {
  return false;
}

Piece read_piece(std::string_view message, const std::string& where) {
  Piece piece;
  for_each_field(message, where, [&](const WireField& field) {
    if (field.number == 1) piece.text = field.contents;
    if (field.number == 2) piece.score = field.as_float();
    if (field.number != 3) return;
    if (field.value < 1 || field.value > 6) throw Error(ErrorKind::input, fmt::format("{}: expected a type from 1 to 6, found {}", where, field.value));
    piece.type = static_cast<PieceType>(field.value);
  });
  if (piece.text.empty()) throw Error(ErrorKind::input, where + ": has no text");
  if (!is_utf8(piece.text)) throw Error(ErrorKind::input, where + ": is not UTF-8");
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
json make_merges(const std::vector<Piece>& pieces, const std::string& where) {
  struct Way {
    const Piece* piece;
    size_t left;     ///< bytes of the first part
    size_t letters;  ///< characters of the first part
  };
  std::unordered_map<std::string_view, const Piece*> known;
  for (const Piece& piece : pieces)
    if (piece.type != PieceType::unused) known.emplace(piece.text, &piece);
  std::vector<Way> ways;
  for (const Piece& piece : pieces) {
    if (!is_written(piece.type)) continue;
    const std::string_view text = piece.text;
    if (text.size() > most_piece_bytes) throw Error(ErrorKind::input, fmt::format("{}: piece {}: has {} bytes; at most {} are supported", where, &piece - pieces.data(), text.size(), most_piece_bytes));
    size_t letters = 0;
    for (size_t left = 1; left < text.size(); ++left) {
      if ((text[left] & 0xC0) == 0x80) continue;  // within a character
      ++letters;
      if (known.contains(text.substr(0, left)) && known.contains(text.substr(left))) ways.push_back({&piece, left, letters});
    }
  }
  std::ranges::stable_sort(ways, [](const Way& a, const Way& b) { return std::tuple(-a.piece->score, -static_cast<int64_t>(a.letters)) < std::tuple(-b.piece->score, -static_cast<int64_t>(b.letters)); });
  json merges = json::array();
  for (const Way& way : ways) merges.push_back({way.piece->text.substr(0, way.left), way.piece->text.substr(way.left)});
  return merges;
}

json make_model(const SentencePieceModel& model, const std::optional<size_t>& unknown, const std::string& where) {
  if (model.kind == SentencePieceModel::Kind::unigram) {
    json vocabulary = json::array();
    for (const Piece& piece : model.pieces) {
      if (piece.type == PieceType::unused) throw Error(ErrorKind::input, fmt::format("{}: piece \"{}\": unused pieces of a unigram model are not supported", where, piece.text));
      vocabulary.push_back({piece.text, piece.score});
    }
    return {{"type", "Unigram"}, {"unk_id", unknown ? json(*unknown) : json()}, {"vocab", std::move(vocabulary)}, {"byte_fallback", model.falls_back_to_bytes}};
  }
  json vocabulary = json::object();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (piece.type != PieceType::unused && !vocabulary.emplace(piece.text, id).second) throw Error(ErrorKind::input, fmt::format("{}: piece \"{}\" is there twice", where, piece.text));
  }
  return {{"type", "BPE"}, {"unk_token", unknown ? json(model.pieces[*unknown].text) : json()}, {"fuse_unk", true}, {"byte_fallback", model.falls_back_to_bytes}, {"vocab", std::move(vocabulary)}, {"merges", make_merges(model.pieces, where)}};
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
    if (field.number == 3 && field.value != 1 && field.value != 2) throw Error(ErrorKind::input, fmt::format("{}: trainer_spec: model_type {} is not supported (known: 1, unigram; 2, BPE)", where, field.value));
    if (field.number == 3) model.kind = static_cast<Kind>(field.value);
    if (field.number == 24 && field.value != 0) throw Error(ErrorKind::input, where + ": trainer_spec: treat_whitespace_as_suffix is not supported");
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

json SentencePieceModel::make_tokenizer(const std::optional<std::string>& first_token, const std::string& where) const {
  json added = json::array(), normalizers = json::array(), post_processor;
  std::optional<size_t> unknown;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const Piece& piece = pieces[id];
    if (piece.type == PieceType::unknown) unknown = id;
    if (first_token == piece.text) post_processor = make_bos_template(piece.text, id);
    if (piece.type == PieceType::unknown || piece.type == PieceType::control || piece.type == PieceType::user_defined)
      added.push_back({{"id", id}, {"content", piece.text}, {"normalized", false}, {"special", piece.type != PieceType::user_defined}});
  }
  if (!charsmap.empty()) normalizers.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", encode_base64(charsmap)}});
  if (removes_spaces) {
    normalizers.push_back(replace("Regex", "\\A +", ""));
    normalizers.push_back(replace("Regex", " {2,}", " "));
  }
  if (adds_dummy_prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", space_mark}});
  normalizers.push_back(replace("String", " ", space_mark));
  if (removes_spaces) normalizers.push_back(replace("Regex", fmt::format("{}+\\z", space_mark), ""));  // marks in the text, too
  json decoders = {replace("String", space_mark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (adds_dummy_prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"version", "1.0"}, {"added_tokens", std::move(added)}, {"normalizer", {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}}}, {"post_processor", std::move(post_processor)}, {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}}, {"model", make_model(*this, unknown, where)}};
}

}  // namespace llmc
