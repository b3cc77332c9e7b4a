#include "calib/text_normalizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "calib/byte_alphabet.h"
#include "calib/precompiled_charsmap.h"
#include "calib/replacement.h"
#include "calib/sentencepiece_normalizer.h"
#include "calib/text_growth.h"
#include "calib/unicode_text.h"
#include "core/error.h"
#include "core/json.h"
#include "core/utf8.h"

namespace llmc {

using nlohmann::json;

namespace {


/// Each character becomes what `change` appends.
template <typename Change>
std::string map_characters(std::string_view text, Change change) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint character = code_point_at(text, at);
    change(character.value, text.substr(at, character.bytes), result);
    at += character.bytes;
  }
  return result;
}

template <typename Drops>
std::string drop_characters(std::string_view text, Drops drops) {
  return map_characters(text, [&](char32_t value, std::string_view bytes, std::string& result) {
    if (!drops(value)) result += bytes;
  });
}

std::string strip(std::string_view text, bool left, bool right) {
  while (left && !text.empty() && is_white_space(code_point_at(text, 0).value)) text.remove_prefix(code_point_at(text, 0).bytes);
  while (right && !text.empty() && is_white_space(last_code_point(text).value)) text.remove_suffix(last_code_point(text).bytes);
  return std::string(text);
}

/// The rules of SentencePiece's "nmt": control characters go, others become spaces.
std::string apply_nmt(std::string_view text) {
  return map_characters(text, [](char32_t c, std::string_view bytes, std::string& result) {
    const bool goes = (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
    const bool is_space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                          c == 0xFEFF || c == 0xFFFD;
    if (is_space) result += ' ';
    else if (!goes) result += bytes;
  });
}

/// Controls go but for tab, line feed and carriage return, then white space becomes a space (Devlin 2018, BasicTokenizer).
std::string clean_text(std::string_view text) {
  return map_characters(text, [](char32_t c, std::string_view bytes, std::string& result) {
    const bool is_kept = c == '\t' || c == '\n' || c == '\r' || (c != 0 && c != 0xFFFD && !is_control_or_format(c));
    if (is_kept && is_white_space(c)) result += ' ';
    else if (is_kept) result += bytes;
  });
}

std::string set_ideographs_apart(std::string_view text) {
  return map_characters(text, [](char32_t c, std::string_view bytes, std::string& result) {
    const bool is_apart = is_cjk_ideograph(c);
    if (is_apart) result += ' ';
    result += bytes;
    if (is_apart) result += ' ';
  });
}

std::string strip_accents(std::string_view text) { return drop_characters(to_normal_form(text, NormalForm::nfd), is_nonspacing_mark); }

}  // namespace

TextNormalizer TextNormalizer::parse(const json* normalizer, const std::string& where) {
  TextNormalizer result;
  if (normalizer) result.add(*normalizer, where);
  return result;
}

void TextNormalizer::add(const json& normalizer, const std::string& where) {
  static constexpr std::array<std::pair<std::string_view, NormalForm>, 4> forms = {
      {{"NFC", NormalForm::nfc}, {"NFD", NormalForm::nfd}, {"NFKC", NormalForm::nfkc}, {"NFKD", NormalForm::nfkd}}};
  FieldReader fields(normalizer, where);
  const std::string type = fields.get_string("type");
  if (steps_.size() >= most_tokenizer_steps) throw Error(ErrorKind::input, fmt::format("{}: more than {} steps are not supported", where, most_tokenizer_steps));
  const auto form = std::ranges::find(forms, type, &std::pair<std::string_view, NormalForm>::first);
  if (form != forms.end()) {
    steps_.push_back({[named = form->second](std::string_view text) { return to_normal_form(text, named); }, true});
  } else if (type == "Lowercase") {
    steps_.push_back({to_lowercase});
  } else if (type == "StripAccents") {
    steps_.push_back({[](std::string_view text) { return drop_characters(text, is_mark); }, true});
  } else if (type == "Nmt") {
    steps_.push_back({apply_nmt});
  } else if (type == "ByteLevel") {
    steps_.push_back({spell_bytes});
  } else if (type == "Strip") {
    const bool left = fields.find_bool("strip_left").value_or(true), right = fields.find_bool("strip_right").value_or(true);
    steps_.push_back({[left, right](std::string_view text) { return strip(text, left, right); }});
  } else if (type == "Prepend") {
    steps_.push_back({[prefix = fields.get_string("prepend")](std::string_view text) { return text.empty() ? std::string() : prefix + std::string(text); }});
  } else if (type == "Replace") {
    steps_.push_back({[replacement = std::make_shared<const Replacement>(fields)](std::string_view text) { return replacement->apply(text); }});
  } else if (type == "Precompiled") {
    const auto map = std::make_shared<const PrecompiledCharsmap>(fields.get_string("precompiled_charsmap"), where + ": precompiled_charsmap");
    steps_.push_back({[map](std::string_view text) { return map->apply(text); }});
  } else if (type == "SentencePiece") {
    const auto rules = std::make_shared<const SentencePieceNormalizer>(fields);
    steps_.push_back({[rules](std::string_view text) { return rules->apply(text); }});
  } else if (type == "BertNormalizer") {
    const bool lowercase = fields.find_bool("lowercase").value_or(true);
    if (fields.find_bool("clean_text").value_or(true)) steps_.push_back({clean_text});
    if (fields.find_bool("handle_chinese_chars").value_or(true)) steps_.push_back({set_ideographs_apart, true});
    if (fields.find_bool("strip_accents").value_or(lowercase)) steps_.push_back({strip_accents, true});
    if (lowercase) steps_.push_back({to_lowercase});
  } else if (type == "Sequence") {
    const json* parts = fields.find("normalizers");
    if (!parts || !parts->is_array()) throw Error(ErrorKind::input, where + ": field \"normalizers\" is missing or not a list");
    for (const json& part : *parts) add(part, where);
  } else {
    throw Error(ErrorKind::input, fmt::format("{} type \"{}\" is not supported", where, type));
  }
  fields.finish();
}

std::string_view TextNormalizer::apply(std::string_view text, std::string& storage) const {
  const size_t most = most_grown_bytes(text.size());
  for (const Step& step : steps_) {
    if (step.keeps_ascii && find_non_ascii(text) == text.size()) continue;
    storage = step.apply(text);
    text = storage;
    check_growth(text.size(), most, "normalizer");
  }
  return text;
}

}  // namespace llmc
