#include "calib/text_normalizer.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "calib/utf8.h"
#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

namespace {

/// Lower case without context, as Rust's char::to_lowercase: one character becomes one, but for U+0130.
std::string to_lowercase(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint character = code_point_at(text, at);
    if (character.value == 0x130) result += "i\xCC\x87";  // SpecialCasing.txt: i and U+0307
    else append_code_point(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character.value))), result);
    at += character.bytes;
  }
  return result;
}

std::string to_normal_form(std::string_view text, int options) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                              static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, std::free);
  if (bytes < 0) throw Error(ErrorKind::input, fmt::format("text: cannot be normalized: {}", utf8proc_errmsg(bytes)));
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(bytes));
}

}  // namespace

TextNormalizer TextNormalizer::parse(const json* normalizer, const std::string& where) {
  TextNormalizer result;
  if (normalizer) result.add(*normalizer, where);
  return result;
}

void TextNormalizer::add(const json& normalizer, const std::string& where) {
  static constexpr std::array<std::pair<std::string_view, Form>, 5> names = {
      {{"NFC", Form::nfc}, {"NFD", Form::nfd}, {"NFKC", Form::nfkc}, {"NFKD", Form::nfkd}, {"Lowercase", Form::lowercase}}};
  FieldReader fields(normalizer, where);
  const std::string type = fields.get_string("type");
  const auto named = std::ranges::find(names, type, &std::pair<std::string_view, Form>::first);
  if (named != names.end()) {
    forms_.push_back(named->second);
  } else if (type == "Sequence") {
    const json* parts = fields.find("normalizers");
    if (!parts || !parts->is_array()) throw Error(ErrorKind::input, where + ": field \"normalizers\" is missing or not a list");
    for (const json& part : *parts) add(part, where);
  } else {
    throw Error(ErrorKind::input, fmt::format("{} type \"{}\" is not supported", where, type));
  }
  fields.finish();
}

std::string TextNormalizer::normalize(std::string_view text, Form form) {
  switch (form) {
    case Form::nfc: return to_normal_form(text, UTF8PROC_COMPOSE);
    case Form::nfd: return to_normal_form(text, UTF8PROC_DECOMPOSE);
    case Form::nfkc: return to_normal_form(text, UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
    case Form::nfkd: return to_normal_form(text, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
    case Form::lowercase: return to_lowercase(text);
  }
  throw Error(ErrorKind::bug, "a normal form without a case");
}

std::string_view TextNormalizer::apply(std::string_view text, std::string& storage) const {
  const bool is_ascii = std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  for (Form form : forms_) {
    if (is_ascii && form != Form::lowercase) continue;  // ASCII is in every normal form
    storage = normalize(text, form);
    text = storage;
  }
  return text;
}

}  // namespace llmc
