// Owns the special tokens that GGUF has keys for.
#pragma once

#include <array>

namespace llmc {

struct GgufSpecialToken {
  const char* name;  ///< as Hugging Face has it: bos_token, bos_token_id
  const char* key;
};
inline constexpr std::array gguf_special_tokens = {GgufSpecialToken{"bos", "tokenizer.ggml.bos_token_id"}, GgufSpecialToken{"eos", "tokenizer.ggml.eos_token_id"}, GgufSpecialToken{"unk", "tokenizer.ggml.unknown_token_id"}, GgufSpecialToken{"sep", "tokenizer.ggml.seperator_token_id"}, GgufSpecialToken{"pad", "tokenizer.ggml.padding_token_id"}, GgufSpecialToken{"cls", "tokenizer.ggml.cls_token_id"}, GgufSpecialToken{"mask", "tokenizer.ggml.mask_token_id"}};

}  // namespace llmc
