// Owns SentencePiece vocabularies of GGUF files (tokenizer.ggml.model "llama").
#pragma once

#include "formats/gguf_metadata.h"
#include "formats/sentencepiece_model.h"

namespace llmc {

/// The pieces, scores and types of a file, as llama.cpp uses them: BPE by score, byte tokens for what no piece holds. Throws Error(input)
/// naming the key that is damaged.
SentencePieceModel read_gguf_sentencepiece(const GgufMetadata& metadata, const std::vector<std::string>& tokens, const std::vector<int64_t>& types);

}  // namespace llmc
