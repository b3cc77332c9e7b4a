#include "calib/token_decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "calib/byte_alphabet.h"
#include "calib/replacement.h"
#include "calib/text_growth.h"
#include "core/error.h"
#include "core/json.h"
#include "core/utf8.h"

namespace llmc {

using nlohmann::json;

namespace {

using Tokens = std::vector<std::string>;

size_t total_bytes(const Tokens& tokens) {
  return std::accumulate(tokens.begin(), tokens.end(), size_t{0}, [](size_t sum, const std::string& token) { return sum + token.size(); });
}

std::string concatenate(const Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

std::string replace_all(std::string_view text, std::string_view what, std::string_view by) {
  std::string result;
  for (size_t at; !what.empty() && (at = text.find(what)) != std::string_view::npos; text.remove_prefix(at + what.size())) result.append(text.substr(0, at)).append(by);
  return result.append(text);
}

std::string add_space(std::string_view token) { return std::string(1, ' ').append(token); }

/// A token with a character outside of the byte alphabet stands for itself.
std::string despell(std::string token) {
  auto bytes = find_spelled_bytes(token);
  return bytes ? std::move(*bytes) : std::move(token);
}

/// The byte of "<0x0A>".
std::optional<char> find_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  int value = 0;
  for (char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    value = 16 * value + digit;
  }
  return static_cast<char>(value);
}

/// Neighbouring byte tokens become their text, or one U+FFFD each when they are not UTF-8.
Tokens decode_byte_tokens(Tokens tokens) {
  Tokens result;
  std::string bytes;
  const auto flush = [&] {
    if (!bytes.empty() && find_invalid_utf8(bytes)) result.insert(result.end(), bytes.size(), "\xEF\xBF\xBD");
    else if (!bytes.empty()) result.push_back(bytes);
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const auto byte = find_byte(token)) {
      bytes += *byte;
      continue;
    }
    flush();
    result.push_back(std::move(token));
  }
  flush();
  return result;
}

/// English as it is written, from words that were set apart.
std::string clean_up(std::string text) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> pairs = {{{" .", "."},
                                                                                            {" ?", "?"},
                                                                                            {" !", "!"},
                                                                                            {" ,", ","},
                                                                                            {" ' ", "'"},
                                                                                            {" n't", "n't"},
                                                                                            {" 'm", "'m"},
                                                                                            {" do not", " don't"},
                                                                                            {" 's", "'s"},
                                                                                            {" 've", "'ve"},
                                                                                            {" 're", "'re"}}};
  for (const auto& [what, by] : pairs) text = replace_all(text, what, by);
  return text;
}

/// At most `start` and `stop` times the character, from the two ends.
std::string strip_ends(std::string_view token, std::string_view character, int64_t start, int64_t stop) {
  for (; start > 0 && token.starts_with(character); --start) token.remove_prefix(character.size());
  for (; stop > 0 && token.ends_with(character); --stop) token.remove_suffix(character.size());
  return std::string(token);
}

int64_t get_count(FieldReader& fields, const std::string& key) {
  const int64_t count = fields.get_int(key);
  if (count < 0) throw Error(ErrorKind::input, fmt::format("{}: {}: expected 0 or more, found {}", fields.where(), key, count));
  return count;
}

std::string get_filled(FieldReader& fields, const std::string& key, const char* otherwise) {
  const std::string text = fields.find_string(key).value_or(otherwise);
  if (text.empty()) throw Error(ErrorKind::input, fmt::format("{}: {} is empty", fields.where(), key));
  return text;
}

}  // namespace

TokenDecoder TokenDecoder::parse(const json* decoder, bool is_byte_level, const std::string& where) {
  TokenDecoder result;
  if (decoder) result.add(*decoder, where);
  else if (is_byte_level) result.add({{"type", "ByteLevel"}}, where);
  else result.steps_.push_back({[](Tokens tokens) {
      for (size_t i = 1; i < tokens.size(); ++i) tokens[i] = add_space(tokens[i]);
      return tokens;
    }, {}});
  return result;
}

void TokenDecoder::add_each(std::function<std::string(std::string)> decode_one) {
  steps_.push_back({[decode_one](Tokens tokens) {
                      for (std::string& token : tokens) token = decode_one(std::move(token));
                      return tokens;
                    },
                    decode_one});
}

void TokenDecoder::add(const json& decoder, const std::string& where) {
  FieldReader fields(decoder, where);
  const std::string type = fields.get_string("type");
  if (steps_.size() >= most_tokenizer_steps) throw Error(ErrorKind::input, fmt::format("{}: more than {} steps are not supported", where, most_tokenizer_steps));
  if (type == "ByteLevel") {
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.find_bool(key);  // of no effect here
    steps_.push_back({[](Tokens tokens) {
                        std::string bytes;
                        for (std::string& token : tokens) bytes += despell(std::move(token));
                        return Tokens{replace_invalid_utf8(bytes)};
                      },
                      despell});
  } else if (type == "Replace") {
    add_each([replacement = std::make_shared<const Replacement>(fields)](const std::string& token) { return replacement->apply(token); });
  } else if (type == "ByteFallback") {
    steps_.push_back({decode_byte_tokens, [](std::string token) { return find_byte(token) ? std::string(1, '?') : token; }});
  } else if (type == "Fuse") {
    steps_.push_back({[](Tokens tokens) { return Tokens{concatenate(tokens)}; }, {}});
  } else if (type == "Strip") {
    const std::string character = get_filled(fields, "content", "");
    const int64_t start = get_count(fields, "start"), stop = get_count(fields, "stop");
    steps_.push_back({[character, start, stop](Tokens tokens) {
                        for (std::string& token : tokens) token = strip_ends(token, character, start, stop);
                        return tokens;
                      },
                      {}});
  } else if (type == "Metaspace") {
    const std::string mark = get_filled(fields, "replacement", "");
    fields.find_string("str_rep");
    fields.find_bool("split");
    const bool adds = fields.find_bool("add_prefix_space").value_or(true);
    const bool drops_first = fields.find_string("prepend_scheme").value_or(adds ? "always" : "never") != "never";
    const auto to_space = [mark](const std::string& token) { return replace_all(token, mark, " "); };
    steps_.push_back({[mark, to_space, drops_first](Tokens tokens) {
                        for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i == 0 && drops_first ? replace_all(tokens[i], mark, "") : to_space(tokens[i]);
                        return tokens;
                      },
                      to_space});
  } else if (type == "WordPiece") {
    const std::string prefix = fields.find_string("prefix").value_or("##");
    const bool cleans = fields.find_bool("cleanup").value_or(true);
    const auto decode_one = [prefix, cleans](const std::string& token) {
      std::string text = token.starts_with(prefix) ? token.substr(prefix.size()) : add_space(token);
      return cleans ? clean_up(std::move(text)) : text;
    };
    steps_.push_back({[decode_one, cleans](Tokens tokens) {
                        for (size_t i = 0; i < tokens.size(); ++i)
                          if (i > 0) tokens[i] = decode_one(tokens[i]);
                          else if (cleans) tokens[i] = clean_up(tokens[i]);
                        return tokens;
                      },
                      decode_one});
  } else if (type == "BPEDecoder") {
    const std::string suffix = get_filled(fields, "suffix", "</w>");
    const auto decode_one = [suffix](const std::string& token) { return replace_all(token, suffix, " "); };
    steps_.push_back({[decode_one, suffix](Tokens tokens) {
                        for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i + 1 < tokens.size() ? decode_one(tokens[i]) : replace_all(tokens[i], suffix, "");
                        return tokens;
                      },
                      decode_one});
  } else if (type == "CTC") {
    const std::string pad = get_filled(fields, "pad_token", "<pad>"), delimiter = get_filled(fields, "word_delimiter_token", "|");
    const bool cleans = fields.find_bool("cleanup").value_or(true);
    const auto decode_one = [pad, delimiter, cleans](const std::string& token) {
      std::string text = replace_all(token, pad, "");
      return cleans ? replace_all(clean_up(std::move(text)), delimiter, " ") : text;
    };
    steps_.push_back({[decode_one](Tokens tokens) {
                        tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
                        for (std::string& token : tokens) token = decode_one(token);
                        std::erase(tokens, "");
                        return tokens;
                      },
                      decode_one});
  } else if (type == "Sequence") {
    const json* parts = fields.find("decoders");
    if (!parts || !parts->is_array()) throw Error(ErrorKind::input, where + ": field \"decoders\" is missing or not a list");
    for (const json& part : *parts) add(part, where);
  } else {
    throw Error(ErrorKind::input, fmt::format("{} type \"{}\" is not supported", where, type));
  }
  fields.finish();
}

std::string TokenDecoder::decode(std::vector<std::string> tokens) const {
  const size_t most = most_grown_bytes(total_bytes(tokens));
  for (const Step& step : steps_) {
    tokens = step.decode(std::move(tokens));
    check_growth(total_bytes(tokens), most, "decoder");
  }
  return replace_invalid_utf8(concatenate(tokens));
}

size_t TokenDecoder::count_bytes(std::string_view token) const {
  std::string text(token);
  for (const Step& step : steps_) {
    if (step.decode_one) text = step.decode_one(std::move(text));
    check_growth(text.size(), most_grown_bytes(token.size()), "decoder");
  }
  return text.size();
}

}  // namespace llmc
