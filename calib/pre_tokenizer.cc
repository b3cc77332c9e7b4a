#include "calib/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "calib/oniguruma_syntax.h"
#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

namespace {

constexpr size_t most_steps = 64;  // each is a level of recursion

// Radford 2019, https://github.com/openai/gpt-2/blob/master/src/encoder.py
constexpr std::string_view gpt2_words = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

SplitBehavior read_behavior(FieldReader& fields) {
  static constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> names = {{{"Isolated", SplitBehavior::isolated},
                                                                                        {"Removed", SplitBehavior::removed},
                                                                                        {"MergedWithPrevious", SplitBehavior::merged_with_previous},
                                                                                        {"MergedWithNext", SplitBehavior::merged_with_next},
                                                                                        {"Contiguous", SplitBehavior::contiguous}}};
  const std::string name = fields.get_string("behavior");
  const auto named = std::ranges::find(names, name, &std::pair<std::string_view, SplitBehavior>::first);
  if (named == names.end()) throw Error(ErrorKind::input, fmt::format("{}: behavior \"{}\" is not supported", fields.where(), name));
  return named->second;
}

TextPattern read_pattern(FieldReader& fields) {
  const json* pattern = fields.find("pattern");
  if (!pattern) throw Error(ErrorKind::input, fmt::format("{}: field \"pattern\" is missing", fields.where()));
  FieldReader kinds(*pattern, fields.where() + ": pattern");
  const auto expression = kinds.find_string("Regex");
  const auto literal = kinds.find_string("String");
  kinds.finish();
  if (expression.has_value() == literal.has_value()) throw Error(ErrorKind::input, fmt::format("{}: expected \"Regex\" or \"String\"", kinds.where()));
  return TextPattern(expression ? translate_oniguruma(*expression, kinds.where()) : escape_literal(*literal), kinds.where());
}

/// Joins neighbouring parts of a text as a behavior asks, and passes on what results.
class PartJoiner {
 public:
  PartJoiner(std::string_view text, SplitBehavior behavior, const PreTokenizer::Visit& visit) : text_(text), behavior_(behavior), visit_(visit) {}

  void add(Span part, bool is_delimiter) {
    if (part.begin == part.end) return;
    if (behavior_ == SplitBehavior::removed && is_delimiter) return;
    if (!joins(is_delimiter)) {
      flush();
      waiting_.begin = part.begin;
    }
    waiting_.end = part.end;
    last_is_delimiter_ = is_delimiter;
  }

  void flush() {
    if (waiting_.begin != waiting_.end) visit_(text_.substr(waiting_.begin, waiting_.end - waiting_.begin));
    waiting_ = {};
  }

 private:
  bool joins(bool is_delimiter) const {
    if (waiting_.begin == waiting_.end) return false;
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
  bool last_is_delimiter_ = false;
};

}  // namespace

PreTokenizer PreTokenizer::parse(const json* pre_tokenizer, const std::string& where) {
  PreTokenizer result;
  if (pre_tokenizer) result.add(*pre_tokenizer, where);
  return result;
}

void PreTokenizer::add(const json& pre_tokenizer, const std::string& where) {
  FieldReader fields(pre_tokenizer, where);
  const std::string type = fields.get_string("type");
  if (steps_.size() >= most_steps) throw Error(ErrorKind::input, fmt::format("{}: more than {} steps are not supported", where, most_steps));
  if (is_byte_level_) throw Error(ErrorKind::input, fmt::format("{} type \"{}\" after \"ByteLevel\" is not supported", where, type));
  if (type == "ByteLevel") {
    fields.find_bool("trim_offsets");  // of no effect on ids
    Step step;
    step.add_prefix_space = fields.find_bool("add_prefix_space").value_or(true);
    if (fields.find_bool("use_regex").value_or(true)) step.pattern.emplace(translate_oniguruma(gpt2_words, where), where);
    steps_.push_back(std::move(step));
    is_byte_level_ = true;
  } else if (type == "Split") {
    Step step{.pattern = read_pattern(fields), .behavior = read_behavior(fields), .invert = fields.find_bool("invert").value_or(false)};
    steps_.push_back(std::move(step));
  } else if (type == "Digits") {
    const bool individual = fields.find_bool("individual_digits").value_or(false);
    steps_.push_back({.pattern = TextPattern("\\p{N}", where), .behavior = individual ? SplitBehavior::isolated : SplitBehavior::contiguous});
  } else if (type == "Sequence") {
    const json* parts = fields.find("pretokenizers");
    if (!parts || !parts->is_array()) throw Error(ErrorKind::input, where + ": field \"pretokenizers\" is missing or not a list");
    for (const json& part : *parts) add(part, where);
  } else {
    throw Error(ErrorKind::input, fmt::format("{} type \"{}\" is not supported", where, type));
  }
  fields.finish();
}

void PreTokenizer::split_from(size_t step, std::string_view text, const Visit& visit) const {
  if (text.empty()) return;
  if (step == steps_.size()) return visit(text);
  const Step& current = steps_[step];
  std::string prefixed;
  if (current.add_prefix_space && text.front() != ' ') text = prefixed.append(" ").append(text);
  if (!current.pattern) return split_from(step + 1, text, visit);

  const Visit next = [&](std::string_view part) { split_from(step + 1, part, visit); };
  PartJoiner joiner(text, current.behavior, next);
  TextPattern::Search search(*current.pattern, text);
  size_t end = 0;
  while (const auto match = search.find_next()) {
    joiner.add({end, match->begin}, current.invert);
    joiner.add(*match, !current.invert);
    end = match->end;
  }
  joiner.add({end, text.size()}, current.invert);
  joiner.flush();
}

}  // namespace llmc
