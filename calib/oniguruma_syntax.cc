#include "calib/oniguruma_syntax.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"

namespace llmc {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex_digit(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// What an escape means, written for PCRE2 outside and inside of a class; empty: there is no way to write it.
struct Escape {
  char letter;
  std::string_view outside;
  std::string_view inside;
};
// \w: Oniguruma's "Alphabetic, Mark, Decimal_Number, Connector_Punctuation"; PCRE2 10.42 has letters and numbers.
// \s: PCRE2 counts U+180E as a space, which Unicode has not since 6.3. \v: in PCRE2 all vertical space.
constexpr std::array escapes = {
    Escape{'s', R"(\p{White_Space})", R"(\p{White_Space})"},
    Escape{'S', R"(\P{White_Space})", R"(\P{White_Space})"},
    Escape{'w', R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}])", R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})"},
    Escape{'W', R"([^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}])", ""},
    Escape{'d', R"(\p{Nd})", R"(\p{Nd})"},
    Escape{'D', R"(\P{Nd})", R"(\P{Nd})"},
    Escape{'t', R"(\t)", R"(\t)"},
    Escape{'n', R"(\n)", R"(\n)"},
    Escape{'r', R"(\r)", R"(\r)"},
    Escape{'f', R"(\f)", R"(\f)"},
    Escape{'v', R"(\x0B)", R"(\x0B)"},
    Escape{'A', R"(\A)", ""},
    Escape{'z', R"(\z)", ""},
};

constexpr std::array<std::string_view, 38> categories = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl",
                                                         "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk",
                                                         "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cn", "Co", "Cs", "Alphabetic"};

class Translator {
 public:
  Translator(std::string_view expression, const std::string& where) : text_(expression), where_(where) {}

  std::string run() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\\') translate_escape();
      else if (c == '[') translate_class();
      else if (c == '(') translate_group();
      else if (c == '{') translate_interval();
      else if (c == '^') result_ += "(?m:^)", ++at_;
      else if (c == '$') result_ += "(?m:$)", ++at_;
      else result_ += c, ++at_;
    }
    return std::move(result_);
  }

 private:
  bool follows(std::string_view text) const { return text_.substr(at_).starts_with(text); }
  [[noreturn]] void refuse(std::string_view construct) const {
    throw Error(ErrorKind::input, fmt::format("{}: \"{}\" at byte {} of the regular expression {} is not supported", where_, construct, at_, text_));
  }

  void translate_escape() {
    if (at_ + 1 >= text_.size()) refuse("\\");
    const char letter = text_[at_ + 1];
    const auto escape = std::ranges::find(escapes, letter, &Escape::letter);
    if (escape != escapes.end()) {
      const std::string_view meaning = in_class_ ? escape->inside : escape->outside;
      if (meaning.empty()) refuse(text_.substr(at_, 2));
      result_ += meaning;
      at_ += 2;
    } else if (letter == 'p' || letter == 'P') {
      translate_property();
    } else if (letter == 'x' || letter == 'u') {
      translate_code_point();
    } else if (is_letter(letter) || is_digit(letter)) {
      refuse(text_.substr(at_, 2));
    } else {
      if (static_cast<unsigned char>(letter) < 0x80) result_ += '\\';  // other characters need no escape
      result_ += letter;
      at_ += 2;
    }
  }

  /// \p{L}, \P{L}, \p{^L}, \p{Han}: categories are the same, a script's bare name means Script_Extensions to PCRE2.
  void translate_property() {
    const size_t end = text_.find('}', at_);
    if (at_ + 2 >= text_.size() || text_[at_ + 2] != '{' || end == std::string_view::npos) refuse(text_.substr(at_, 2));
    std::string_view name = text_.substr(at_ + 3, end - at_ - 3);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    if (name.empty() || !std::ranges::all_of(name, [](char c) { return is_letter(c) || c == '_'; })) refuse(text_.substr(at_, end + 1 - at_));
    const bool is_category = std::ranges::find(categories, name) != categories.end();
    result_ += fmt::format("\\{}{{{}{}{}}}", text_[at_ + 1], negated ? "^" : "", is_category ? "" : "sc:", name);
    at_ = end + 1;
  }

  /// \x{1F600}, \x41 (ASCII only: beyond it Oniguruma means a byte), \u00E9.
  void translate_code_point() {
    const bool braces = text_.substr(at_).starts_with("\\x{");
    const size_t begin = at_ + (braces ? 3 : 2);
    size_t end = begin;
    const size_t most = braces ? 6 : text_[at_ + 1] == 'u' ? 4 : 2;
    while (end < text_.size() && end < begin + most && is_hex_digit(text_[end])) ++end;
    const std::string_view digits = text_.substr(begin, end - begin);
    const bool complete = braces ? !digits.empty() && end < text_.size() && text_[end] == '}' : digits.size() == most;
    if (!complete || (most == 2 && digits[0] > '7')) refuse(text_.substr(at_, 2));
    result_ += fmt::format("\\x{{{}}}", digits);
    at_ = end + (braces ? 1 : 0);
  }

  /// A class within a class is part of the union, so its brackets go.
  void translate_class() {
    result_ += '[';
    ++at_;
    if (follows("^")) result_ += '^', ++at_;
    if (follows("]")) refuse("[]");
    in_class_ = true;
    for (int depth = 1; depth > 0;) {
      if (at_ >= text_.size()) refuse("[ without ]");
      if (follows("&&")) refuse("&&");
      if (follows("[^") || follows("[:") || follows("[]")) refuse(text_.substr(at_, 2));
      const char c = text_[at_];
      if (c == '\\') {
        translate_escape();
        continue;
      }
      if (c == '[') ++depth;
      else if (c == ']') --depth;
      else result_ += c;
      ++at_;
    }
    in_class_ = false;
    result_ += ']';
  }

  void translate_group() {
    static constexpr std::array<std::string_view, 7> openings = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    std::string_view opening = "(";
    if (follows("(?")) {
      const auto known = std::ranges::find_if(openings, [&](std::string_view text) { return follows(text); });
      if (known == openings.end()) refuse(text_.substr(at_, 3));
      opening = *known;
    } else if (follows("(*")) {
      refuse("(*");
    }
    result_ += opening;
    at_ += opening.size();
  }

  /// {2}, {2,}, {,5}, {2,5} and lazy {2,5}?. In Oniguruma {2}? and {2,5}+ repeat the repetition. Other braces are text.
  void translate_interval() {
    size_t end = at_ + 1;
    const auto read_number = [&] {
      const size_t begin = end;
      while (end < text_.size() && is_digit(text_[end])) ++end;
      return text_.substr(begin, end - begin);
    };
    const std::string_view low = read_number();
    const bool is_range = end < text_.size() && text_[end] == ',';
    if (is_range) ++end;
    const std::string_view high = is_range ? read_number() : low;
    if (end >= text_.size() || text_[end] != '}' || (low.empty() && high.empty())) {
      result_ += "\\{";
      ++at_;
      return;
    }
    const std::string_view after = text_.substr(end + 1, 1);
    if (after == "+" || (after == "?" && !is_range)) refuse(text_.substr(at_, end + 2 - at_));
    result_ += is_range ? fmt::format("{{{},{}}}", low.empty() ? "0" : low, high) : fmt::format("{{{}}}", low);
    at_ = end + 1;
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string result_;
};

}  // namespace

std::string translate_oniguruma(std::string_view expression, const std::string& where) { return Translator(expression, where).run(); }

std::string escape_literal(std::string_view text) {
  std::string result;
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !is_letter(c) && !is_digit(c)) result += '\\';
    result += c;
  }
  return result;
}

}  // namespace llmc
