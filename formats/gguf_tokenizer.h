// Owns the tokenizer of a GGUF file (keys tokenizer.*), byte-level BPE or SentencePiece, from and to the files of a Hugging Face directory.
#pragma once

#include <optional>
#include <string>

#include "formats/checkpoint.h"
#include "formats/gguf_metadata.h"

namespace llmc {

/// tokenizer.json or tokenizer_config.json as the keys have it; nothing for another name, and when the file has no vocabulary.
/// Throws Error(input) naming the key that is not understood.
std::optional<std::string> find_gguf_tokenizer_file(const GgufMetadata& metadata, const std::string& name);

/// Adds the keys that llama.cpp needs, the same that its convert_hf_to_gguf.py writes, for `vocabulary` tokens; without a
/// tokenizer those of a model that takes token ids only. Throws Error(input) for what llama.cpp would do otherwise.
void add_gguf_tokenizer(GgufMetadata& metadata, const Checkpoint& checkpoint, int64_t vocabulary);

}  // namespace llmc
