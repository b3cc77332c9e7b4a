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
};

/// Reads `.npy` (1-D: one sequence, 2-D: a sequence per row; u8, u16, u32, i32 or i64), `.u16` or `.u32` (raw little
/// endian: one sequence), and anything else as UTF-8 text. Throws Error(input) when the file is damaged or empty, when it
/// is text and `tokenizer` is null, and when an id is not in [0, vocabulary).
TokenData load_token_data(const std::filesystem::path& path, const Tokenizer* tokenizer, int64_t vocabulary);

/// One sequence of the whole text, without the post-processor's special tokens: those belong to the windows that are cut
/// from it. Throws Error(input) as Tokenizer::encode does, when there is no token, and when an id is not in [0, vocabulary).
TokenData tokenize_text(std::string_view text, const std::string& name, const Tokenizer& tokenizer, int64_t vocabulary);

}  // namespace llmc
