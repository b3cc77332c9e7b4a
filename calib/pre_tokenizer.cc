#include "calib/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "calib/byte_alphabet.h"
#include "calib/oniguruma_syntax.h"
#include "calib/replacement.h"
#include "calib/text_growth.h"
#include "calib/unicode_text.h"
#include "core/error.h"
#include "core/json.h"
#include "core/utf8.h"

namespace llmc {

using nlohmann::json;

namespace {


// Radford 2019, https://github.com/openai/gpt-2/blob/master/src/encoder.py
constexpr std::string_view gpt2_words = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Characters of a class, as the Rust crates regex and unicode_categories have them.
constexpr std::string_view word_characters = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control})";  // Unicode TS 18, annex C
constexpr std::string_view white_space = R"(\p{White_Space})";
constexpr std::string_view punctuation = R"([!-/:-@\[-`{-~\p{P}])";
constexpr int64_t most_characters = 65535;  // of PCRE2's repetitions

SplitBehavior read_behavior(FieldReader& fields, const std::string& otherwise = "") {
  static constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> names = {{{"Isolated", SplitBehavior::isolated},
                                                                                        {"Removed", SplitBehavior::removed},
                                                                                        {"MergedWithPrevious", SplitBehavior::merged_with_previous},
                                                                                        {"MergedWithNext", SplitBehavior::merged_with_next},
                                                                                        {"Contiguous", SplitBehavior::contiguous}}};
  const std::string name = otherwise.empty() ? fields.get_string("behavior") : fields.find_string("behavior").value_or(otherwise);
  const auto named = std::ranges::find(names, name, &std::pair<std::string_view, SplitBehavior>::first);
  if (named == names.end()) throw Error(ErrorKind::input, fmt::format("{}: behavior \"{}\" is not supported", fields.where(), name));
  return named->second;
}

/// A field that is one character.
std::string get_character(FieldReader& fields, const std::string& key) {
  const std::string text = fields.get_string(key);
  if (text.empty() || code_point_at(text, 0).bytes != text.size()) throw Error(ErrorKind::input, fmt::format("{}: {}: expected one character, found \"{}\"", fields.where(), key, text));
  return text;
}

std::string replace_spaces(std::string_view text, std::string_view mark) {
  std::string result;
  result.reserve(text.size() + text.size() / 2);
  for (char c : text) {
    if (c == ' ') result += mark;
    else result += c;
  }
  return result;
}

/// Joins neighbouring parts of a text as a behavior asks, and passes on what results.
class PartJoiner {
 public:
  PartJoiner(std::string_view text, SplitBehavior behavior, const PreTokenizer::Visit& visit) : text_(text), behavior_(behavior), visit_(visit) {}

  /// Text between matches that is empty is not a part; an empty match is.
  void add_gap(Span part, bool is_delimiter) {
    if (part.begin != part.end) add(part, is_delimiter);
  }

  void add(Span part, bool is_delimiter) {
    if (behavior_ == SplitBehavior::removed && is_delimiter) return;
    if (!joins(is_delimiter)) {
      flush();
      waiting_.begin = part.begin;
    }
    waiting_.end = part.end;
    is_waiting_ = true;
    last_is_delimiter_ = is_delimiter;
  }

  void flush() {
    if (waiting_.begin != waiting_.end) visit_(text_.substr(waiting_.begin, waiting_.end - waiting_.begin));
    waiting_ = {};
    is_waiting_ = false;
  }

 private:
  bool joins(bool is_delimiter) const {
    if (!is_waiting_) return false;
    switch (behavior_) {
      case SplitBehavior::merged_with_previous: return is_delimiter && !last_is_delimiter_;
      case SplitBehavior::merged_with_next: return !is_delimiter && last_is_delimiter_;
      case SplitBehavior::contiguous: return is_delimiter == last_is_delimiter_;
      default: return false;
    }
  }

  std::string_view text_;
  SplitBehavior behavior_;
  const PreTokenizer::Visit& visit_;
  Span waiting_;
  bool is_waiting_ = false;
  bool last_is_delimiter_ = false;
};

/// Characters without a script join all; what comes before the first that has one is lost, as in Hugging Face's.
void split_at_scripts(std::string_view text, const PreTokenizer::Visit& visit) {
  int last = 0;
  std::optional<size_t> begin;
  for (size_t at = 0; at < text.size();) {
    const CodePoint character = code_point_at(text, at);
    if (const int script = script_of(character.value); script != 0 && script != last) {
      if (begin) visit(text.substr(*begin, at - *begin));
      begin = at;
      last = script;
    }
    at += character.bytes;
  }
  if (begin) visit(text.substr(*begin));
}

}  // namespace

PreTokenizer PreTokenizer::parse(const json* pre_tokenizer, const std::string& where) {
  PreTokenizer result;
  if (pre_tokenizer) result.add(*pre_tokenizer, where);
  return result;
}

PreTokenizer::Step PreTokenizer::make_step(const std::string& expression, SplitBehavior behavior, bool invert) {
  Step step;
  step.pattern.emplace(expression, "pre_tokenizer");
  step.behavior = behavior;
  step.invert = invert;
  return step;
}

PreTokenizer::Step PreTokenizer::read_byte_level(FieldReader& fields) {
  fields.find_bool("trim_offsets");  // of no effect on ids
  Step step;
  if (fields.find_bool("add_prefix_space").value_or(true)) step.prefix_place = PrefixPlace::every_piece;
  if (fields.find_bool("use_regex").value_or(true)) step.pattern.emplace(translate_oniguruma(gpt2_words, fields.where()), fields.where());
  return step;
}

PreTokenizer::Step PreTokenizer::read_metaspace(FieldReader& fields) {
  static constexpr std::array<std::pair<std::string_view, PrefixPlace>, 3> places = {
      {{"always", PrefixPlace::every_piece}, {"first", PrefixPlace::first_piece}, {"never", PrefixPlace::nowhere}}};
  const std::string mark = get_character(fields, "replacement");
  fields.find_string("str_rep");  // the same again, in old files
  const bool adds = fields.find_bool("add_prefix_space").value_or(true);
  const std::string scheme = fields.find_string("prepend_scheme").value_or(adds ? "always" : "never");
  const auto place = std::ranges::find(places, scheme, &std::pair<std::string_view, PrefixPlace>::first);
  if (place == places.end()) throw Error(ErrorKind::input, fmt::format("{}: prepend_scheme \"{}\" is not supported", fields.where(), scheme));
  if (!adds && place->second != PrefixPlace::nowhere) throw Error(ErrorKind::input, fmt::format("{}: add_prefix_space false and prepend_scheme \"{}\" contradict each other", fields.where(), scheme));
  Step step;
  step.space_mark = mark;
  step.prefix_place = place->second;
  if (fields.find_bool("split").value_or(true)) step.pattern.emplace(escape_literal(mark), fields.where());
  step.behavior = SplitBehavior::merged_with_next;
  return step;
}

void PreTokenizer::add(const json& pre_tokenizer, const std::string& where) {
  FieldReader fields(pre_tokenizer, where);
  const std::string type = fields.get_string("type");
  if (steps_.size() >= most_tokenizer_steps) throw Error(ErrorKind::input, fmt::format("{}: more than {} steps are not supported", where, most_tokenizer_steps));
  if (is_byte_level_ && type != "Sequence") {
    steps_.back().spells_bytes = true;  // a step after ByteLevel sees the byte alphabet
    is_byte_level_ = false;
  }
  if (type == "ByteLevel") {
    steps_.push_back(read_byte_level(fields));
    is_byte_level_ = true;
  } else if (type == "Split") {
    const json* pattern = fields.find("pattern");
    if (pattern && pattern->is_object() && pattern->value("String", json()) == "") throw Error(ErrorKind::input, where + ": pattern: an empty String is not supported");
    Step step;
    step.pattern.emplace(read_pattern(fields));
    step.behavior = read_behavior(fields);
    step.invert = fields.find_bool("invert").value_or(false);
    steps_.push_back(std::move(step));
  } else if (type == "Digits") {
    const bool individual = fields.find_bool("individual_digits").value_or(false);
    steps_.push_back(make_step("\\p{N}", individual ? SplitBehavior::isolated : SplitBehavior::contiguous));
  } else if (type == "Punctuation") {
    steps_.push_back(make_step(std::string(punctuation), read_behavior(fields, "Isolated")));
  } else if (type == "Whitespace") {
    steps_.push_back(make_step(fmt::format("[{0}]+|[^{0}{1}]+", word_characters, white_space), SplitBehavior::removed, true));
  } else if (type == "WhitespaceSplit") {
    steps_.push_back(make_step(std::string(white_space), SplitBehavior::removed));
  } else if (type == "BertPreTokenizer") {
    steps_.push_back(make_step(std::string(white_space), SplitBehavior::removed));
    steps_.push_back(make_step(std::string(punctuation), SplitBehavior::isolated));
  } else if (type == "CharDelimiterSplit") {
    steps_.push_back(make_step(escape_literal(get_character(fields, "delimiter")), SplitBehavior::removed));
  } else if (type == "Metaspace") {
    steps_.push_back(read_metaspace(fields));
  } else if (type == "UnicodeScripts") {
    Step step;
    step.cuts_between_scripts = true;
    steps_.push_back(std::move(step));
  } else if (type == "FixedLength") {
    const int64_t length = fields.find_int("length").value_or(5);
    if (length < 1 || length > most_characters) throw Error(ErrorKind::input, fmt::format("{}: length: expected 1 to {}, found {}", where, most_characters, length));
    steps_.push_back(make_step(fmt::format("(?s:.{{1,{}}})", length), SplitBehavior::isolated));
  } else if (type == "Sequence") {
    const json* parts = fields.find("pretokenizers");
    if (!parts || !parts->is_array()) throw Error(ErrorKind::input, where + ": field \"pretokenizers\" is missing or not a list");
    for (const json& part : *parts) add(part, where);
  } else {
    throw Error(ErrorKind::input, fmt::format("{} type \"{}\" is not supported", where, type));
  }
  fields.finish();
}

/// Where words go, and how many bytes were handed from step to step on the way.
struct PreTokenizer::Output {
  const Visit& visit;
  size_t most;
  size_t bytes = 0;
};

void PreTokenizer::split(std::string_view text, const Visit& visit, bool is_first) const {
  Output output{.visit = visit, .most = (steps_.size() + 1) * most_grown_bytes(text.size())};
  split_from(0, text, is_first, output);
}

void PreTokenizer::split_from(size_t step, std::string_view text, bool is_first, Output& output) const {
  if (text.empty()) return;
  check_growth(output.bytes += text.size(), output.most, "pre_tokenizer");
  if (step == steps_.size()) return output.visit(text);
  const Step& current = steps_[step];
  std::string changed;
  if (!current.space_mark.empty()) text = changed = replace_spaces(text, current.space_mark);
  const std::string_view prefix = current.space_mark.empty() ? std::string_view(" ") : current.space_mark;
  const bool wants_prefix = current.prefix_place == PrefixPlace::every_piece || (current.prefix_place == PrefixPlace::first_piece && is_first);
  if (wants_prefix && !text.starts_with(prefix)) text = changed = std::string(prefix).append(text);

  bool next_is_first = is_first;
  const Visit next = [&](std::string_view part) {
    const bool part_is_first = std::exchange(next_is_first, false) && part.data() == text.data();
    if (current.spells_bytes) split_from(step + 1, spell_bytes(part), part_is_first, output);
    else split_from(step + 1, part, part_is_first, output);
  };
  if (current.cuts_between_scripts) return split_at_scripts(text, next);
  if (!current.pattern) return next(text);
  PartJoiner joiner(text, current.behavior, next);
  TextPattern::Search search(*current.pattern, text);
  size_t end = 0;
  while (const auto match = search.find_next()) {
    joiner.add_gap({end, match->begin}, current.invert);
    joiner.add(*match, !current.invert);
    end = match->end;
  }
  joiner.add_gap({end, text.size()}, current.invert);
  joiner.flush();
}

}  // namespace llmc
