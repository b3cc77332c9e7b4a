// Owns SentencePiece vocabularies of GGUF files (tokenizer.ggml.model "llama"), both ways.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "formats/gguf_metadata.h"
#include "formats/sentencepiece_model.h"

namespace llmc {

/// The pieces, scores and types of a file, as llama.cpp uses them: BPE by score, byte tokens for what no piece holds. Throws Error(input)
/// naming the key that is damaged.
SentencePieceModel read_gguf_sentencepiece(const GgufMetadata& metadata, const std::vector<std::string>& tokens, const std::vector<int64_t>& types);

/// Whether a tokenizer.json is SentencePiece's BPE: of characters, and bytes for those that no piece holds.
bool is_sentencepiece(const nlohmann::json& tokenizer);

/// Whether such a tokenizer puts a space in front of texts. Throws Error(input) for a normalizer or pre-tokenizer that llama.cpp does
/// not have.
bool adds_space_prefix(const nlohmann::json& tokenizer, const std::string& where);

/// Gives the pieces of such a tokenizer, whose texts and added tokens are there, types and scores: those of the tokenizer.model `source`
/// if they order the merges as the tokenizer has them, else the merges' ranks. Throws Error(input) naming a token that
/// llama.cpp, which merges by score whatever makes a piece, would make otherwise.
void score_pieces(std::vector<Piece>& pieces, const nlohmann::json& tokenizer, const std::optional<SentencePieceModel>& source, const std::string& where);

}  // namespace llmc
