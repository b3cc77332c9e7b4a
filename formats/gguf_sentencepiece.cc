#include "formats/gguf_sentencepiece.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "core/error.h"

namespace llmc {

namespace {

constexpr const char* scores_key = "tokenizer.ggml.scores";

std::vector<float> read_scores(const GgufMetadata& metadata, size_t count) {
  const auto describe = [&](const std::string& found) { return Error(ErrorKind::input, fmt::format("{}: key {}: expected {} numbers of type f32, found {}", metadata.where(), scores_key, count, found)); };
  const GgufValue* value = metadata.find(scores_key);
  if (!value) throw describe("none");
  const auto* array = std::get_if<GgufArray>(&value->value);
  if (!array || array->element != GgufValueType::f32) throw describe("another type");
  if (array->size() != count) throw describe(std::to_string(array->size()));
  std::vector<float> scores(count);
  if (count > 0) std::memcpy(scores.data(), std::get<std::vector<std::byte>>(array->items).data(), count * sizeof(float));
  for (float score : scores)
    if (!std::isfinite(score)) throw describe(std::to_string(score));
  return scores;
}

}  // namespace

SentencePieceModel read_gguf_sentencepiece(const GgufMetadata& metadata, const std::vector<std::string>& tokens, const std::vector<int64_t>& types) {
  const std::vector<float> scores = read_scores(metadata, tokens.size());
  SentencePieceModel model;
  model.kind = SentencePieceModel::Kind::bpe;
  model.falls_back_to_bytes = true;
  model.adds_dummy_prefix = metadata.find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  model.removes_spaces = metadata.find_bool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  for (size_t id = 0; id < tokens.size(); ++id) model.pieces.push_back({tokens[id], scores[id], static_cast<PieceType>(types[id])});
  return model;
}

}  // namespace llmc
