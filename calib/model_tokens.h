// Owns what a checkpoint's files say about its tokens: its tokenizer, and the ids that begin and end texts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "calib/tokenizer.h"
#include "model/model.h"

namespace llmc {

/// What a model's tokenizer is called in messages: "MODEL/tokenizer.json", or "MODEL.gguf: tokenizer".
std::string tokenizer_name(const Model& model);
/// Nothing when the checkpoint has none. Throws Error(input) when it is damaged or not supported.
std::optional<Tokenizer> load_tokenizer(const Model& model);

/// The one id that the model's tokenizer puts before a text; nothing when it puts none, or more. Throws Error(input) when the model's vocabulary does not
/// hold it.
std::optional<int32_t> find_first_token(const Model& model, const Tokenizer& tokenizer);
/// The id that texts begin with: what the tokenizer puts before them, or else config.json's bos_token_id. Nothing when there is none.
/// Throws as find_first_token does.
std::optional<int32_t> find_begin_token(const Model& model, const Tokenizer* tokenizer);
/// The ids that end a text: eos_token_id, one or a list, of generation_config.json, or else of config.json. Throws Error(input) when it is anything else.
std::vector<int32_t> find_end_tokens(const Model& model);

}  // namespace llmc
