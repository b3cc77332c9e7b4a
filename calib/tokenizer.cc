#include "calib/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "calib/byte_alphabet.h"
#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/utf8.h"

namespace llmc {

using nlohmann::json;

namespace {

/// Runs one step of reading and keeps its complaint, so that the user sees them all.
template <typename Read>
void attempt(Problems& problems, Read read) {
  try {
    read();
  } catch (const Error& problem) {
    problems.add(problem.what());
  }
}

}  // namespace

/// The ids of words seen before, since most words of a text are repetitions.
class Tokenizer::WordCache {
 public:
  explicit WordCache(const TokenModel& model) : model_(model) {}

  /// Word by word, or part by part where the model may cut it.
  void encode(std::string_view word, std::vector<int32_t>& ids) {
    for (size_t begin = 0; begin < word.size();) {
      const size_t end = model_.find_cut(word, begin);
      encode_part(word.substr(begin, end - begin), ids);
      begin = end;
    }
  }

 private:
  void encode_part(std::string_view word, std::vector<int32_t>& ids) {
    if (word.size() > longest_word) return model_.encode(word, ids);
    const auto known = known_.find(word);
    if (known != known_.end()) {
      ids.insert(ids.end(), known->second.begin(), known->second.end());
      return;
    }
    const size_t before = ids.size();
    model_.encode(word, ids);
    if (known_.size() < most_words) known_.emplace(word, std::vector<int32_t>(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end()));
  }

  static constexpr size_t longest_word = 64;  // in bytes; longer ones seldom come again
  static constexpr size_t most_words = 65536;

  const TokenModel& model_;
  TextMap<std::vector<int32_t>> known_;
};

Tokenizer Tokenizer::parse(std::string_view text, const std::string& where) {
  const json file = parse_json(text, where);
  FieldReader fields(file, where);
  const std::string version = fields.find_string("version").value_or("1.0");
  fields.find("truncation");
  fields.find("padding");
  const json* model = fields.find("model");
  const json* added_tokens = fields.find("added_tokens");
  const json* normalizer = fields.find("normalizer");
  const json* pre_tokenizer = fields.find("pre_tokenizer");
  const json* post_processor = fields.find("post_processor");
  const json* decoder = fields.find("decoder");
  fields.finish();

  Tokenizer result;
  result.where_ = where;
  Problems problems;
  if (version != "1.0") problems.add(fmt::format("version \"{}\" is not supported", version));
  attempt(problems, [&] { result.normalizer_ = TextNormalizer::parse(normalizer, "normalizer"); });
  attempt(problems, [&] { result.pre_tokenizer_ = PreTokenizer::parse(pre_tokenizer, "pre_tokenizer"); });
  const bool is_byte_level = result.pre_tokenizer_.is_byte_level();
  attempt(problems, [&] { result.decoder_ = TokenDecoder::parse(decoder, is_byte_level, "decoder"); });
  attempt(problems, [&] { result.model_ = read_token_model(model, is_byte_level); });
  problems.throw_if_any(ErrorKind::input, where);

  const Vocabulary& vocabulary = result.model_->vocabulary();
  attempt(problems, [&] { result.added_tokens_ = AddedTokens::parse(added_tokens, vocabulary, result.normalizer_, "added_tokens"); });
  problems.throw_if_any(ErrorKind::input, where);
  const auto find_id = [&](std::string_view token) {
    const AddedToken* added = result.added_tokens_.find(token);
    return added ? std::optional(added->id) : vocabulary.find_id(token);
  };
  attempt(problems, [&] { result.post_processor_ = PostProcessor::parse(post_processor, find_id, "post_processor"); });
  problems.throw_if_any(ErrorKind::input, where);
  return result;
}

std::vector<int32_t> Tokenizer::encode(std::string_view utf8, SpecialTokens special) const {
  WordCache cache(*model_);
  return encode(utf8, special, cache);
}

std::vector<std::vector<int32_t>> Tokenizer::encode_all(std::span<const std::string> texts, SpecialTokens special) const {
  constexpr size_t most_bytes = 65536;  // of texts that share what is known of words, but for a longer one
  std::vector<size_t> ends;             // of such pieces
  size_t bytes = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    bytes += texts[i].size();
    if (bytes < most_bytes && i + 1 < texts.size()) continue;
    ends.push_back(i + 1);
    bytes = 0;
  }
  std::vector<std::vector<int32_t>> ids(texts.size());
  parallel_for(std::ssize(ends), [&](int64_t piece) {
    const auto p = static_cast<size_t>(piece);
    WordCache cache(*model_);
    for (size_t i = p == 0 ? 0 : ends[p - 1]; i < ends[p]; ++i) ids[i] = encode(texts[i], special, cache);
  });
  return ids;
}

std::vector<int32_t> Tokenizer::encode(std::string_view utf8, SpecialTokens special, WordCache& cache) const {
  if (const auto position = find_invalid_utf8(utf8)) throw Error(ErrorKind::input, "text: " + describe_invalid_utf8(utf8, *position));
  const bool add_special = special == SpecialTokens::add;
  std::vector<int32_t> ids = add_special ? post_processor_.before : std::vector<int32_t>();
  const bool spells = pre_tokenizer_.is_byte_level() && !model_->takes_bytes();
  const PreTokenizer::Visit encode_word = [&](std::string_view word) {
    if (spells) cache.encode(spell_bytes(word), ids);
    else cache.encode(word, ids);
  };
  for (const AddedTokens::Segment& raw : added_tokens_.split_raw(utf8)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    std::string storage;
    const std::string_view normalized = normalizer_.apply(raw.text, storage);
    for (const AddedTokens::Segment& segment : added_tokens_.split_normalized(normalized)) {
      const bool is_first = raw.text.data() == utf8.data() && segment.text.data() == normalized.data();
      if (segment.id) ids.push_back(*segment.id);
      else pre_tokenizer_.split(segment.text, encode_word, is_first);
    }
  }
  if (add_special) ids.insert(ids.end(), post_processor_.after.begin(), post_processor_.after.end());
  return ids;
}

std::string_view Tokenizer::get_name(int32_t id) const {
  if (const AddedToken* added = added_tokens_.find(id)) return added->shown;
  if (const std::string* token = model_->vocabulary().find_token(id)) return *token;
  throw Error(ErrorKind::input, fmt::format("{}: no token has the id {}", where_, id));
}

bool Tokenizer::has_token(int32_t id) const { return added_tokens_.find(id) || model_->vocabulary().find_token(id); }

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::vector<std::string> tokens;
  for (int32_t id : ids) tokens.emplace_back(get_name(id));
  return decoder_.decode(std::move(tokens));
}

int64_t Tokenizer::vocabulary_size() const { return int64_t{std::max(model_->vocabulary().largest_id(), added_tokens_.largest_id())} + 1; }

std::vector<int32_t> Tokenizer::byte_lengths(std::span<const int32_t> ids) const {
  std::unordered_map<int32_t, int32_t> known;
  std::vector<int32_t> lengths;
  lengths.reserve(ids.size());
  for (int32_t id : ids) {
    const auto [entry, is_new] = known.try_emplace(id);
    if (is_new) {
      const AddedToken* added = added_tokens_.find(id);
      entry->second = static_cast<int32_t>(!added ? decoder_.count_bytes(get_name(id)) : added->special ? 0 : added->content.size());
    }
    lengths.push_back(entry->second);
  }
  return lengths;
}

}  // namespace llmc
