#include "calib/precompiled_charsmap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "calib/text_growth.h"
#include "calib/unicode_text.h"
#include "core/error.h"
#include "core/utf8.h"

namespace llmc {

namespace {

constexpr size_t longest_cluster = 5;  // in bytes
constexpr size_t most_rule_bytes = 1024;  // that a rule replaces

/// RFC 4648, section 4.
std::string decode_base64(std::string_view text, const std::string& where) {
  static constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  if (text.size() % 4 != 0) throw Error(ErrorKind::input, fmt::format("{}: {} characters are not base64", where, text.size()));
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size() - padding; ++i) {
    const size_t value = alphabet.find(text[i]);
    if (value == std::string_view::npos) throw Error(ErrorKind::input, fmt::format("{}: character {} is not base64", where, i));
    bits = bits << 6 | static_cast<uint32_t>(value);
    // 6 bits are in after the first character of four, 12 after the second…
    const int have = static_cast<int>(i % 4 + 1) * 6 - static_cast<int>(bytes.size() % 3) * 8;
    if (have >= 8) bytes += static_cast<char>(bits >> (have - 8) & 0xFF);
  }
  return bytes;
}

// A unit of the trie (darts-clone, https://github.com/s-yata/darts-clone).
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) == 1; }
uint32_t value_of(uint32_t unit) { return unit & 0x7FFFFFFFu; }
uint32_t label_of(uint32_t unit) { return unit & 0x800000FFu; }
uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }

}  // namespace

PrecompiledCharsmap::PrecompiledCharsmap(std::string_view base64, const std::string& where) : where_(where) {
  const std::string bytes = decode_base64(base64, where);
  uint32_t trie_bytes = 0;
  if (bytes.size() < sizeof trie_bytes) throw Error(ErrorKind::input, fmt::format("{}: {} bytes are too few", where, bytes.size()));
  std::memcpy(&trie_bytes, bytes.data(), sizeof trie_bytes);
  if (trie_bytes == 0 || trie_bytes % sizeof(uint32_t) != 0 || trie_bytes > bytes.size() - sizeof trie_bytes)
    throw Error(ErrorKind::input, fmt::format("{}: a trie of {} bytes does not fit a map of {}", where, trie_bytes, bytes.size()));
  units_.resize(trie_bytes / sizeof(uint32_t));
  std::memcpy(units_.data(), bytes.data() + sizeof trie_bytes, trie_bytes);
  replacements_ = bytes.substr(sizeof trie_bytes + trie_bytes);
  if (const auto position = find_invalid_utf8(replacements_)) throw Error(ErrorKind::input, where + ": replacements: " + describe_invalid_utf8(replacements_, *position));
}

uint32_t PrecompiledCharsmap::unit_at(uint32_t position) const {
  if (position >= units_.size()) throw Error(ErrorKind::input, fmt::format("{}: the trie leads to unit {} of {}", where_, position, units_.size()));
  return units_[position];
}

std::optional<PrecompiledCharsmap::Rule> PrecompiledCharsmap::find_rule(std::string_view part, Taken taken) const {
  std::optional<Rule> rule;
  uint32_t position = offset_of(unit_at(0));
  for (size_t i = 0; i < std::min(part.size(), most_rule_bytes); ++i) {  // a trie may lead round in circles
    const auto byte = static_cast<unsigned char>(part[i]);
    if (byte == 0) break;
    position ^= byte;
    const uint32_t unit = unit_at(position);
    if (label_of(unit) != byte) break;
    position ^= offset_of(unit);
    if (!has_leaf(unit)) continue;
    const uint32_t begin = value_of(unit_at(position));
    if (begin > replacements_.size() || (begin < replacements_.size() && (replacements_[begin] & 0xC0) == 0x80))
      throw Error(ErrorKind::input, fmt::format("{}: the trie leads to byte {} of {} bytes of replacements", where_, begin, replacements_.size()));
    rule = Rule{std::string_view(replacements_).substr(begin, std::min(replacements_.find('\0', begin), replacements_.size()) - begin), i + 1};
    if (taken == Taken::shortest) break;
  }
  return rule;
}

std::optional<PrecompiledCharsmap::Rule> PrecompiledCharsmap::find_longest(std::string_view text) const {
  std::optional<Rule> rule = find_rule(text, Taken::longest);
  if (rule && rule->bytes < text.size() && (text[rule->bytes] & 0xC0) == 0x80) throw Error(ErrorKind::input, fmt::format("{}: a rule ends within a character", where_));
  return rule;
}

std::optional<std::string_view> PrecompiledCharsmap::find_replacement(std::string_view part) const {
  const auto rule = find_rule(part, Taken::shortest);
  return rule ? std::optional(rule->replacement) : std::nullopt;
}

std::string PrecompiledCharsmap::apply(std::string_view text) const {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    check_growth(result.size(), most_grown_bytes(text.size()), "normalizer");
    const std::string_view cluster = text.substr(at, grapheme_size(text, at));
    at += cluster.size();
    if (cluster.size() <= longest_cluster) {
      if (const auto replacement = find_replacement(cluster)) {
        result += *replacement;
        continue;
      }
    }
    for (size_t i = 0; i < cluster.size();) {
      const std::string_view character = cluster.substr(i, code_point_at(cluster, i).bytes);
      result += find_replacement(character).value_or(character);
      i += character.size();
    }
  }
  return result;
}

}  // namespace llmc
