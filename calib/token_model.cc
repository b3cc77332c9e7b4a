#include "calib/token_model.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "calib/byte_pair_encoding.h"
#include "calib/sentencepiece_encoding.h"
#include "calib/unigram.h"
#include "calib/word_models.h"
#include "core/error.h"
#include "core/json.h"

namespace llmc {

using nlohmann::json;

namespace {

/// Old files leave the model's type out; its fields tell, in Hugging Face's order.
std::string type_of(const json& model) {
  FieldReader fields(model, "model");
  if (const auto type = fields.find_string("type")) return *type;
  const json* vocabulary = fields.find("vocab");
  if (vocabulary && vocabulary->is_object()) {
    if (fields.find("merges")) return "BPE";
    if (fields.find("max_input_chars_per_word") || fields.find("continuing_subword_prefix")) return "WordPiece";
    if (fields.find("unk_token")) return "WordLevel";
  }
  if (vocabulary && vocabulary->is_array()) return "Unigram";
  return fields.get_string("type");
}

}  // namespace

std::string TokenModel::byte_token(unsigned char byte) { return fmt::format("<0x{:02X}>", byte); }

std::unique_ptr<const TokenModel> read_token_model(const json* model, bool is_byte_level) {
  if (!model) throw Error(ErrorKind::input, "model: is missing");
  const std::string type = type_of(*model);
  if (type == "BPE") return std::make_unique<BytePairEncoding>(BytePairEncoding::parse(*model, "model", is_byte_level));
  if (type == "Unigram") return std::make_unique<Unigram>(Unigram::parse(*model, "model"));
  if (type == "SentencePiece") return std::make_unique<SentencePieceEncoding>(SentencePieceEncoding::parse(*model, "model"));
  if (type == "WordPiece") return std::make_unique<WordPiece>(WordPiece::parse(*model, "model"));
  if (type == "WordLevel") return std::make_unique<WordLevel>(WordLevel::parse(*model, "model"));
  throw Error(ErrorKind::input, fmt::format("model type \"{}\" is not supported", type));
}

}  // namespace llmc
