// Owns reading the token ids that a model is calibrated or measured on, from files of ids or of text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "calib/tokenizer.h"

namespace llmc {

/// Token ids to evaluate or calibrate on.
struct TokenData {
  std::string name;                                ///< file name or "bundled text"
  std::vector<std::vector<int32_t>> sequences;     ///< independent; windows never cross them
  std::vector<std::vector<int32_t>> byte_lengths;  ///< of text, see Tokenizer::byte_lengths; same shape as `sequences`, empty when only ids are known
  std::string sha256;                              ///< of the file's or text's bytes
};

/// What turns text into ids.
struct TextReading {
  const Tokenizer* tokenizer = nullptr;  ///< null: text is refused
  std::string field = "text";            ///< of a JSONL line, that holds its text
};

/// Whether a file's name says that it holds token ids, so that no tokenizer is needed.
bool holds_token_ids(const std::filesystem::path& path);

/// Reads `.npy` (1-D: one sequence, 2-D: a sequence per row; u8, u16, u32, i32 or i64), `.u16` or `.u32` (raw little
/// endian: one sequence), `.jsonl` (an object a line, each a sequence; blank lines are no documents) and anything else as
/// UTF-8 text (one sequence). Throws Error(input) when the file is damaged or empty, when it is text and there is no
/// tokenizer, and when an id is not in [0, vocabulary).
TokenData load_token_data(const std::filesystem::path& path, const TextReading& reading, int64_t vocabulary);

/// One sequence of the whole text, without the post-processor's special tokens: those belong to the windows that are cut
/// from it. Throws Error(input) as Tokenizer::encode does, when there is no token, and when an id is not in [0, vocabulary).
TokenData tokenize_text(std::string_view text, const std::string& name, const Tokenizer& tokenizer, int64_t vocabulary);

}  // namespace llmc
