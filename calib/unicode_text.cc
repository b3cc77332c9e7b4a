#include "calib/unicode_text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>

#include "calib/unicode_scripts.h"
#include "core/error.h"
#include "core/utf8.h"

namespace llmc {

namespace {

utf8proc_category_t category_of(char32_t value) { return utf8proc_category(static_cast<utf8proc_int32_t>(value)); }

int options_of(NormalForm form) {
  switch (form) {
    case NormalForm::nfc: return UTF8PROC_COMPOSE;
    case NormalForm::nfd: return UTF8PROC_DECOMPOSE;
    case NormalForm::nfkc: return UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    case NormalForm::nfkd: return UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
  }
  throw Error(ErrorKind::bug, "a normal form without a case");
}

}  // namespace

std::string to_normal_form(std::string_view text, NormalForm form) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                              static_cast<utf8proc_option_t>(options_of(form) | UTF8PROC_STABLE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, std::free);
  if (bytes < 0) throw Error(ErrorKind::input, fmt::format("text: cannot be normalized: {}", utf8proc_errmsg(bytes)));
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(bytes));
}

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

bool is_mark(char32_t value) {
  const auto category = category_of(value);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
}

bool is_nonspacing_mark(char32_t value) { return category_of(value) == UTF8PROC_CATEGORY_MN; }

bool is_control_or_format(char32_t value) {
  const auto category = category_of(value);
  return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_CO;
}

int script_of(char32_t value) {
  const auto after = std::ranges::upper_bound(script_ranges, static_cast<uint32_t>(value), {}, &ScriptRange::first);
  return std::prev(after)->script;
}

bool is_cjk_ideograph(char32_t value) {
  // Hugging Face's list; 2B820..2B91F, which BERT's own code has, is not in it.
  static constexpr std::array<std::pair<char32_t, char32_t>, 8> blocks = {{{0x3400, 0x4DBF}, {0x4E00, 0x9FFF}, {0xF900, 0xFAFF}, {0x20000, 0x2A6DF},
                                                                            {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F}}};
  return std::ranges::any_of(blocks, [&](const auto& block) { return value >= block.first && value <= block.second; });
}

size_t grapheme_size(std::string_view text, size_t begin) {
  utf8proc_int32_t state = 0;
  size_t at = begin;
  for (;;) {
    const CodePoint character = code_point_at(text, at);
    at += character.bytes;
    if (at >= text.size()) return text.size() - begin;
    if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(character.value), static_cast<utf8proc_int32_t>(code_point_at(text, at).value), &state)) return at - begin;
  }
}

}  // namespace llmc
