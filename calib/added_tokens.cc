#include "calib/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "calib/text_pattern.h"
#include "core/error.h"
#include "core/json.h"
#include "core/utf8.h"

namespace llmc {

using nlohmann::json;

namespace {

/// \w of Rust's regex crate (Unicode TS 18, annex C).
const TextPattern& word_pattern() {
  static const TextPattern pattern(R"(\A[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])", "added_tokens");
  return pattern;
}
bool starts_with_word(std::string_view text) { return !text.empty() && TextPattern::Search(word_pattern(), text.substr(0, code_point_at(text, 0).bytes)).find_next(); }
bool ends_with_word(std::string_view text) { return !text.empty() && starts_with_word(text.substr(text.size() - last_code_point(text).bytes)); }

size_t white_space_at_start(std::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size() && is_white_space(code_point_at(text, bytes).value)) bytes += code_point_at(text, bytes).bytes;
  return bytes;
}

size_t white_space_at_end(std::string_view text) {
  const size_t size = text.size();
  while (!text.empty() && is_white_space(last_code_point(text).value)) text.remove_suffix(last_code_point(text).bytes);
  return size - text.size();
}

}  // namespace

AddedToken AddedTokens::read(const json& entry, const std::string& where) {
  FieldReader fields(entry, where);
  AddedToken token;
  const json* id = fields.find("id");
  const auto known = id ? find_token_id(*id) : std::nullopt;
  if (!known) throw Error(ErrorKind::input, fmt::format("{}: expected an id from 0 to {}, found {}", where, INT32_MAX - 1, id ? id->dump() : "none"));
  token.id = *known;
  token.content = fields.get_string("content");
  token.special = fields.find_bool("special").value_or(false);
  token.normalized = fields.find_bool("normalized").value_or(!token.special);
  token.single_word = fields.find_bool("single_word").value_or(false);
  token.lstrip = fields.find_bool("lstrip").value_or(false);
  token.rstrip = fields.find_bool("rstrip").value_or(false);
  fields.finish();
  return token;
}

void AddedTokens::add(AddedToken token, const Vocabulary& vocabulary, AddedTokenIds& ids) {
  if (token.content.empty() || by_content_.contains(token.content)) return;
  const int64_t id = ids.take(vocabulary.find_id(token.content));
  if (id >= INT32_MAX) throw Error(ErrorKind::input, fmt::format("token \"{}\": no id is left for it", token.content));
  token.id = static_cast<int32_t>(id);
  by_id_.insert_or_assign(token.id, tokens_.size());
  by_content_.emplace(token.content, tokens_.size());
  largest_id_ = std::max(largest_id_, token.id);
  tokens_.push_back(std::move(token));
}

AddedTokens AddedTokens::parse(const json* list, const Vocabulary& vocabulary, const TextNormalizer& normalizer, const std::string& where) {
  AddedTokens result;
  if (!list) return result;
  if (!list->is_array()) throw Error(ErrorKind::input, fmt::format("{}: expected a list, found {}", where, list->type_name()));
  Problems problems;
  AddedTokenIds ids(vocabulary.size());
  for (const json& entry : *list) {
    try {
      result.add(read(entry, "token"), vocabulary, ids);
    } catch (const Error& problem) {
      problems.add(problem.what());
    }
  }
  problems.throw_if_any(ErrorKind::input, where);

  for (size_t i = 0; i < result.tokens_.size(); ++i) {
    AddedToken& token = result.tokens_[i];
    std::string storage;
    token.shown = token.normalized ? normalizer.apply(token.content, storage) : token.content;
    if (!token.normalized) result.raw_.add(token.content, i);
    else if (!token.shown.empty()) result.normalized_.add(token.shown, i);  // a normalizer may leave nothing to find
  }
  return result;
}

std::vector<AddedTokens::Segment> AddedTokens::split(std::string_view text, const PhraseMatcher& matcher) const {
  std::vector<Segment> segments;
  size_t done = 0;  // everything before is in a segment
  size_t from = 0;
  while (const auto match = matcher.find(text, from)) {
    from = match->end;
    size_t begin = match->begin;
    size_t end = match->end;
    const AddedToken& token = tokens_[match->phrase];
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token.lstrip) begin = std::max(begin - white_space_at_end(text.substr(0, begin)), done);
    if (token.rstrip) end += white_space_at_start(text.substr(end));
    if (done < begin) segments.push_back({text.substr(done, begin - done), std::nullopt});
    if (begin < end) segments.push_back({text.substr(begin, end - begin), token.id});  // else all of it was swallowed before
    done = end;
  }
  if (done < text.size()) segments.push_back({text.substr(done), std::nullopt});
  return segments;
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto entry = by_id_.find(id);
  return entry == by_id_.end() ? nullptr : &tokens_[entry->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto entry = by_content_.find(content);
  return entry == by_content_.end() ? nullptr : &tokens_[entry->second];
}

}  // namespace llmc
