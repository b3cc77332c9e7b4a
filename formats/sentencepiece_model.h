// Owns SentencePiece's models: reading tokenizer.model, and saying the same as a tokenizer.json.
// Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

/// SentencePiece.Type; GGUF's token types are the same.
enum class PieceType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

inline constexpr std::string_view space_mark = "\u2581";   ///< SentencePiece writes it for a space
inline constexpr size_t most_merges = size_t{1} << 21;  ///< Gemma, with 262,144 pieces, has a quarter of this
inline constexpr size_t most_merge_bytes = size_t{64} << 20;
inline constexpr size_t most_piece_bytes = 1024;  ///< all parts of a piece are looked up, so it costs the square of this

struct Piece {
  std::string text;
  double score = 0;
  PieceType type = PieceType::normal;
};

struct SentencePieceModel {
  enum class Kind { unigram = 1, bpe = 2, word = 3, character = 4 };
  /// Who is to read a tokenizer that is made: transformers' library, or only llmc, which knows parts that say all that the file does.
  enum class Reader { llmc, transformers };
  Kind kind = Kind::unigram;
  std::vector<Piece> pieces;       ///< by id
  std::string charsmap;            ///< compiled normalization rules; empty: none
  bool adds_dummy_prefix = true;   ///< a space before the text
  bool removes_spaces = true;      ///< at the ends, and all but one of several
  bool falls_back_to_bytes = false;
  bool marks_ends = false;         ///< the space is put after the text (treat_whitespace_as_suffix)
  std::string bos = "<s>", eos = "</s>";  ///< texts of the pieces for the ends of a text
  std::optional<std::string> last_token;  ///< the control piece that texts end with

  /// Reads a tokenizer.model. Throws Error(input) for a file that is damaged, or that says what llmc does not do.
  static SentencePieceModel parse(std::string_view file, const std::string& where);

  const Piece* find_piece(std::string_view text) const;

  /// The same as a tokenizer.json: merges of BPE are all pairs of pieces that make a third, by its score. For transformers it is as their library
  /// converts such files. For llmc itself ids are SentencePiece's, but control pieces are found in texts. Texts start with the control piece `first_token`, if it
  /// is given, and end with `last_token`. Throws Error(input) naming a piece that is there twice.
  nlohmann::json make_tokenizer(const std::optional<std::string>& first_token, const std::string& where, Reader reader = Reader::llmc) const;
};

/// The post-processor of a tokenizer.json that puts one token in front of texts.
nlohmann::json make_bos_template(const std::string& token, size_t id);

}  // namespace llmc
