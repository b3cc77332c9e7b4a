#include "calib/oniguruma_syntax.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

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
// \w: Oniguruma's "Alphabetic, Mark, Decimal_Number, Connector_Punctuation"; PCRE2 10.42 has letters and numbers. Outside of classes Oniguruma
// asks Latin-1's own table, in which six numbers are of a word.
// \s: PCRE2 counts U+180E as a space, which Unicode has not since 6.3. \v: in PCRE2 all vertical space.
constexpr std::string_view word_set = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xB2\xB3\xB9\xBC-\xBE])";
constexpr std::string_view inner_word_set = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::array escapes = {
    Escape{'s', R"(\p{White_Space})", R"(\p{White_Space})"},
    Escape{'S', R"(\P{White_Space})", R"(\P{White_Space})"},
    Escape{'w', word_set, inner_word_set},
    Escape{'d', R"(\p{Nd})", R"(\p{Nd})"},
    Escape{'D', R"(\P{Nd})", R"(\P{Nd})"},
    Escape{'h', "[0-9A-Fa-f]", "0-9A-Fa-f"},
    Escape{'t', R"(\t)", R"(\t)"},
    Escape{'n', R"(\n)", R"(\n)"},
    Escape{'r', R"(\r)", R"(\r)"},
    Escape{'f', R"(\f)", R"(\f)"},
    Escape{'v', R"(\x0B)", R"(\x0B)"},
    Escape{'W', R"([^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xB2\xB3\xB9\xBC-\xBE])", ""},
    Escape{'H', "[^0-9A-Fa-f]", ""},
    Escape{'A', R"(\A)", ""},
    Escape{'z', R"(\z)", ""},
    Escape{'Z', R"(\Z)", ""},
    Escape{'R', R"((?>\r\n|[\n\x0B\f\r\x{85}\x{2028}\x{2029}]))", ""},
};

/// Sets of characters by name, as \p{Alpha} and [:alpha:], with what stands in a class for them.
struct NamedSet {
  std::string_view name;
  std::string_view items;
  bool is_negated = false;  ///< all but the items
};
constexpr std::array named_sets = {
    NamedSet{"alpha", R"(\p{Alphabetic})"},
    NamedSet{"alnum", R"(\p{Alphabetic}\p{Nd})"},
    NamedSet{"blank", R"(\t\p{Zs})"},
    NamedSet{"cntrl", R"(\p{Cc})"},
    NamedSet{"digit", R"(\p{Nd})"},
    NamedSet{"graph", R"(\p{White_Space}\p{Cc}\p{Cn}\p{Cs})", true},
    NamedSet{"lower", R"(\p{Lowercase})"},
    NamedSet{"print", R"(\p{Cc}\p{Cn}\p{Cs}\p{Zl}\p{Zp})", true},
    NamedSet{"punct", R"(\p{P}\p{S})"},
    NamedSet{"space", R"(\p{White_Space})"},
    NamedSet{"upper", R"(\p{Uppercase})"},
    NamedSet{"word", R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})"},
    NamedSet{"xdigit", "0-9A-Fa-f"},
    NamedSet{"ascii", R"(\x00-\x7F)"},
};

constexpr int most_nested_classes = 32;

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
      else if (c == '[') result_ += translate_class(0);
      else if (c == '(') translate_group();
      else if (c == ')') close_group();
      else if (c == '{') translate_interval();
      else if (c == '^') result_ += "(?m:^)", ++at_;
      else if (c == '$') result_ += "(?m:$)", ++at_;
      else translate_literal(c);
    }
    return std::move(result_);
  }

 private:
  /// Where case is ignored Oniguruma also finds the one character that two letters fold to ("ß" for "ss"), which PCRE2 does not.
  void translate_literal(char c) {
    static constexpr std::array<std::string_view, 5> folded = {"ss", "st", "ff", "fi", "fl"};
    const auto matches = [&](std::string_view pair) { return text_.size() - at_ >= 2 && (text_[at_] | 0x20) == pair[0] && (text_[at_ + 1] | 0x20) == pair[1]; };
    if (ignores_case() && std::ranges::any_of(folded, matches)) refuse(text_.substr(at_, 2));
    result_ += c;
    ++at_;
  }

  bool follows(std::string_view text) const { return text_.substr(at_).starts_with(text); }
  [[noreturn]] void refuse(std::string_view construct) const {
    throw Error(ErrorKind::input, fmt::format("{}: \"{}\" at byte {} of the regular expression {} is not supported", where_, construct, at_, text_));
  }

  void translate_escape() {
    if (at_ + 1 >= text_.size()) refuse("\\");
    const char letter = text_[at_ + 1];
    const auto escape = std::ranges::find(escapes, letter, &Escape::letter);
    if (escape != escapes.end()) {
      result_ += escape->outside;
      at_ += 2;
    } else if (letter == 'b' || letter == 'B') {
      const char* both = letter == 'b' ? "(?:(?<={0})(?!{0})|(?<!{0})(?={0}))" : "(?:(?<={0})(?={0})|(?<!{0})(?!{0}))";
      result_ += fmt::format(fmt::runtime(both), word_set);
      at_ += 2;
    } else if (letter == 'p' || letter == 'P') {
      result_ += in_brackets(translate_property());
    } else {
      result_ += translate_character();
    }
  }

  /// An escaped character that means one itself, or its number.
  std::string translate_character() {
    if (at_ + 1 >= text_.size()) refuse("\\");
    const char letter = text_[at_ + 1];
    if (letter == 'x' || letter == 'u') return translate_code_point();
    if (is_letter(letter) || is_digit(letter)) refuse(text_.substr(at_, 2));
    at_ += 2;
    return static_cast<unsigned char>(letter) < 0x80 ? std::string{'\\', letter} : std::string(1, letter);  // other characters need no escape
  }

  /// What a class holds of a set: items, or all but these.
  struct Items {
    std::string text;
    bool is_negated = false;
    bool is_property = false;  ///< needs no brackets
  };
  static std::string in_brackets(const Items& items) {
    if (items.is_property) return items.text;
    return fmt::format("[{}{}]", items.is_negated ? "^" : "", items.text);
  }

  /// \p{L}, \P{L}, \p{^L}, \p{Han}, \p{Alpha}: categories are the same, a script's bare name means Script_Extensions to PCRE2.
  Items translate_property() {
    const size_t end = text_.find('}', at_);
    if (at_ + 2 >= text_.size() || text_[at_ + 2] != '{' || end == std::string_view::npos) refuse(text_.substr(at_, 2));
    std::string_view name = text_.substr(at_ + 3, end - at_ - 3);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    if (name.empty() || !std::ranges::all_of(name, [](char c) { return is_letter(c) || c == '_'; })) refuse(text_.substr(at_, end + 1 - at_));
    const char letter = text_[at_ + 1];
    std::string lower(name);
    for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    const auto set = std::ranges::find(named_sets, lower, &NamedSet::name);
    const bool is_category = std::ranges::find(categories, name) != categories.end();
    at_ = end + 1;
    if (is_category || set == named_sets.end()) return {.text = fmt::format("\\{}{{{}{}{}}}", letter, negated ? "^" : "", is_category ? "" : "sc:", name), .is_property = true};
    std::string items(set->name == "punct" ? R"(\p{P})" : set->items);  // the property's Punct has no symbols, unlike the bracket's
    if (set->name == "word" && depth_ == 0) items = word_set.substr(1, word_set.size() - 2);
    return {.text = std::move(items), .is_negated = set->is_negated != (negated != (letter == 'P'))};
  }

  /// \x{1F600}, \x41 (ASCII only: beyond it Oniguruma means a byte), \u00E9.
  std::string translate_code_point() {
    const bool braces = text_.substr(at_).starts_with("\\x{");
    const size_t begin = at_ + (braces ? 3 : 2);
    size_t end = begin;
    const size_t most = braces ? 6 : text_[at_ + 1] == 'u' ? 4 : 2;
    while (end < text_.size() && end < begin + most && is_hex_digit(text_[end])) ++end;
    const std::string_view digits = text_.substr(begin, end - begin);
    const bool complete = braces ? !digits.empty() && end < text_.size() && text_[end] == '}' : digits.size() == most;
    if (!complete || (most == 2 && digits[0] > '7')) refuse(text_.substr(at_, 2));
    at_ = end + (braces ? 1 : 0);
    return fmt::format("\\x{{{}}}", digits);
  }

  /// What is between two "&&" of a class: items that PCRE2's classes know, and expressions of one character for the rest.
  struct Operand {
    std::string items;
    std::vector<std::string> others;

    void add(const Items& set) {
      if (!set.is_negated || set.is_property) items += set.text;
      else others.push_back(in_brackets(set));
    }
    std::string expression() const {
      std::string result = items.empty() ? "" : fmt::format("[{}]", items);
      for (const std::string& other : others) result += (result.empty() ? "" : "|") + other;
      return others.size() + (items.empty() ? 0 : 1) > 1 ? fmt::format("(?:{})", result) : result;
    }
  };

  /// A class within a class is part of the union, so its brackets go. What PCRE2's classes cannot say, a negated part or an
  /// intersection, becomes an expression of one character.
  std::string translate_class(int nested) {
    if (nested > most_nested_classes) refuse("[");
    ++at_;
    ++depth_;
    const bool is_negated = follows("^");
    if (is_negated) ++at_;
    if (follows("]")) refuse("[]");
    std::vector<Operand> operands(1);
    bool is_after_set = false;  // where a hyphen may be a range to one library and a character to the other
    for (; !follows("]");) {
      if (at_ >= text_.size()) refuse("[ without ]");
      Operand& operand = operands.back();
      if (follows("&&")) {
        at_ += 2;
        operands.emplace_back();
        is_after_set = false;
        continue;
      }
      if ((is_after_set && follows("-") && !follows("-]")) || follows("-[") || follows("-&&")) refuse("-");
      is_after_set = false;
      if (follows("[:")) {
        operand.add(translate_posix());
        is_after_set = true;
      } else if (follows("[")) {
        add_nested(operand, nested);
        is_after_set = true;
      } else if (follows("\\")) {
        add_escape(operand);
      } else {
        if (operand.items.empty() && follows("^")) operand.items += '\\';
        operand.items += text_[at_++];
      }
    }
    ++at_;
    --depth_;
    return combine(operands, is_negated);
  }

  std::string combine(const std::vector<Operand>& operands, bool is_negated) const {
    for (const Operand& operand : operands)
      if (operand.items.empty() && operand.others.empty()) refuse("&&");
    if (operands.size() == 1 && operands[0].others.empty()) return fmt::format("[{}{}]", is_negated ? "^" : "", operands[0].items);
    if (ignores_case()) refuse("[ with a negated part or && where case is ignored");
    std::string all;
    for (size_t i = 0; i < operands.size(); ++i) all += i + 1 < operands.size() ? fmt::format("(?={})", operands[i].expression()) : operands[i].expression();
    return is_negated ? fmt::format("(?:(?!{})(?s:.))", all) : fmt::format("(?:{})", all);
  }

  void add_nested(Operand& operand, int nested) {
    std::string inner = translate_class(nested + 1);
    if (inner.starts_with('[') && !inner.starts_with("[^")) operand.items += inner.substr(1, inner.size() - 2);
    else operand.others.push_back(std::move(inner));
  }

  void add_escape(Operand& operand) {
    const char letter = at_ + 1 < text_.size() ? text_[at_ + 1] : '\0';
    const auto escape = std::ranges::find(escapes, letter, &Escape::letter);
    if (letter == 'p' || letter == 'P') {
      operand.add(translate_property());
    } else if (letter == 'W' || letter == 'H') {
      operand.others.push_back(fmt::format("[^{}]", letter == 'W' ? inner_word_set : "0-9A-Fa-f"));
      at_ += 2;
    } else if (escape != escapes.end()) {
      if (escape->inside.empty()) refuse(text_.substr(at_, 2));
      operand.items += escape->inside;
      at_ += 2;
    } else {
      operand.items += translate_character();
    }
  }

  /// [:alpha:], [:^alpha:]
  Items translate_posix() {
    const size_t end = text_.find(":]", at_ + 2);
    std::string_view name = text_.substr(at_ + 2, end == std::string_view::npos ? 0 : end - at_ - 2);
    const bool is_negated = name.starts_with('^');
    if (is_negated) name.remove_prefix(1);
    const auto set = std::ranges::find(named_sets, name, &NamedSet::name);
    if (set == named_sets.end()) refuse("[:");
    at_ = end + 2;
    return {.text = std::string(set->items), .is_negated = set->is_negated != is_negated};
  }

  bool ignores_case() const { return !groups_.empty() && groups_.back(); }

  void translate_group() {
    static constexpr std::array<std::string_view, 7> openings = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    if (at_ == 0 && follows("(?i)")) {  // elsewhere alternatives after it belong to it, which PCRE2 sees otherwise
      groups_.push_back(true);
      result_ += "(?i)";
      at_ += 4;
      return;
    }
    std::string_view opening = "(";
    size_t bytes = 1;
    if (follows("(?")) {
      const auto known = std::ranges::find_if(openings, [&](std::string_view text) { return follows(text); });
      bytes = known == openings.end() ? named_group_size() : known->size();
      if (bytes == 0) refuse(text_.substr(at_, 3));
      if (known != openings.end()) opening = *known;
    } else if (follows("(*")) {
      refuse("(*");
    }
    groups_.push_back(ignores_case() || opening == "(?i:");
    result_ += opening;
    at_ += bytes;
  }

  void close_group() {
    if (!groups_.empty()) groups_.pop_back();
    result_ += ')';
    ++at_;
  }

  /// Bytes of "(?<name>", or 0. Nothing refers to a group, so its name is of no effect.
  size_t named_group_size() const {
    if (!follows("(?<")) return 0;
    size_t end = at_ + 3;
    while (end < text_.size() && (is_letter(text_[end]) || text_[end] == '_' || (end > at_ + 3 && is_digit(text_[end])))) ++end;
    return end > at_ + 3 && end < text_.size() && text_[end] == '>' ? end + 1 - at_ : 0;
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
  int depth_ = 0;              ///< of classes around `at_`
  std::vector<bool> groups_;   ///< around `at_`: whether case is ignored within
  std::string result_;
};

}  // namespace

std::string translate_oniguruma(std::string_view expression, const std::string& where) {
  constexpr size_t most_bytes = size_t{64} << 10;  // some escapes become a hundred times as long
  if (expression.size() > most_bytes) throw Error(ErrorKind::input, fmt::format("{}: regular expression of {} bytes; at most {} are supported", where, expression.size(), most_bytes));
  return Translator(expression, where).run();
}

std::string escape_literal(std::string_view text) {
  std::string result;
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !is_letter(c) && !is_digit(c)) result += '\\';
    result += c;
  }
  return result;
}

}  // namespace llmc
