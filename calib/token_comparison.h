// Owns whether the ids of two tokenizers stand for the same tokens.
#pragma once

#include <cstdint>
#include <string>

#include "calib/tokenizer.h"

namespace llmc {

struct TokenComparison {
  int64_t compared = 0;   ///< ids that both have
  int64_t different = 0;  ///< of those, that stand for other text
  int32_t first = -1;     ///< the lowest of them, and its two texts
  std::string text;
  std::string other_text;
};

/// Ids below `vocabulary`, each decoded by itself.
TokenComparison compare_tokens(const Tokenizer& tokenizer, const Tokenizer& other, int64_t vocabulary);

}  // namespace llmc
