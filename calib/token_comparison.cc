#include "calib/token_comparison.h"

#include <algorithm>
#include <optional>

#include "core/error.h"

namespace llmc {
namespace {

/// Nothing for an id that no token has.
std::optional<std::string> find_text(const Tokenizer& tokenizer, int32_t id) {
  try {
    return tokenizer.decode({&id, 1});
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

TokenComparison compare_tokens(const Tokenizer& tokenizer, const Tokenizer& other, int64_t vocabulary) {
  TokenComparison result;
  const int64_t end = std::min({vocabulary, tokenizer.vocabulary_size(), other.vocabulary_size()});
  for (int32_t id = 0; id < end; ++id) {
    auto text = find_text(tokenizer, id), other_text = find_text(other, id);
    if (!text || !other_text) continue;
    ++result.compared;
    if (*text == *other_text || ++result.different > 1) continue;
    result.first = id;
    result.text = std::move(*text);
    result.other_text = std::move(*other_text);
  }
  return result;
}

}  // namespace llmc
