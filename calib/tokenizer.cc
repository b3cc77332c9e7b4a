#include "calib/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "calib/byte_pair_encoding.h"
#include "calib/utf8.h"
#include "core/error.h"
#include "core/json.h"

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

/// Old files leave the model's type out; its fields tell.
std::string type_of(const json& model) {
  FieldReader fields(model, "model");
  if (const auto type = fields.find_string("type")) return *type;
  if (fields.find("vocab") && fields.find("merges")) return "BPE";
  return fields.get_string("type");
}

std::unique_ptr<const TokenModel> read_model(const json* model, bool is_byte_level) {
  if (!model) throw Error(ErrorKind::input, "model: is missing");
  const std::string type = type_of(*model);
  if (type != "BPE") throw Error(ErrorKind::input, fmt::format("model type \"{}\" is not supported", type));
  if (!is_byte_level) throw Error(ErrorKind::input, "model: BPE without a ByteLevel pre_tokenizer is not supported");
  return std::make_unique<BytePairEncoding>(BytePairEncoding::parse(*model, "model"));
}

/// The ids of words seen before, since most words of a text are repetitions.
class WordCache {
 public:
  explicit WordCache(const TokenModel& model) : model_(model) {}

  void encode(std::string_view word, std::vector<int32_t>& ids) {
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

 private:
  static constexpr size_t longest_word = 64;  // in bytes; longer ones seldom come again
  static constexpr size_t most_words = 65536;

  const TokenModel& model_;
  TextMap<std::vector<int32_t>> known_;
};

}  // namespace

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
  attempt(problems, [&] { result.decoder_ = TokenDecoder::parse(decoder, "decoder"); });
  attempt(problems, [&] {
    result.pre_tokenizer_ = PreTokenizer::parse(pre_tokenizer, "pre_tokenizer");
    result.model_ = read_model(model, result.pre_tokenizer_.is_byte_level());
  });
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
  if (const auto position = find_invalid_utf8(utf8)) throw Error(ErrorKind::input, "text: " + describe_invalid_utf8(utf8, *position));
  const bool add_special = special == SpecialTokens::add;
  std::vector<int32_t> ids = add_special ? post_processor_.before : std::vector<int32_t>();
  WordCache cache(*model_);
  const PreTokenizer::Visit encode_word = [&](std::string_view word) { cache.encode(word, ids); };
  for (const AddedTokens::Segment& raw : added_tokens_.split_raw(utf8)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    std::string storage;
    for (const AddedTokens::Segment& segment : added_tokens_.split_normalized(normalizer_.apply(raw.text, storage))) {
      if (segment.id) ids.push_back(*segment.id);
      else pre_tokenizer_.split(segment.text, encode_word);
    }
  }
  if (add_special) ids.insert(ids.end(), post_processor_.after.begin(), post_processor_.after.end());
  return ids;
}

std::string_view Tokenizer::get_name(int32_t id) const {
  if (const AddedToken* added = added_tokens_.find(id)) return added->content;
  if (const std::string* token = model_->vocabulary().find_token(id)) return *token;
  throw Error(ErrorKind::input, fmt::format("{}: no token has the id {}", where_, id));
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string bytes;
  for (int32_t id : ids) bytes += decoder_.bytes_of(get_name(id));
  return decoder_.finish(bytes);
}

int64_t Tokenizer::vocabulary_size() const { return int64_t{std::max(model_->vocabulary().largest_id(), added_tokens_.largest_id())} + 1; }

std::vector<int32_t> Tokenizer::byte_lengths(std::span<const int32_t> ids) const {
  std::vector<int32_t> lengths;
  lengths.reserve(ids.size());
  for (int32_t id : ids) {
    const AddedToken* added = added_tokens_.find(id);
    const size_t bytes = !added ? decoder_.bytes_of(get_name(id)).size() : added->special ? 0 : added->content.size();
    lengths.push_back(static_cast<int32_t>(bytes));
  }
  return lengths;
}

}  // namespace llmc
