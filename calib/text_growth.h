// Owns the bound on what the steps of a tokenizer.json may make of a text, so that none multiplies it beyond measure.
#pragma once

#include <fmt/format.h>

#include <cstddef>

#include "core/error.h"

namespace llmc {

/// Steps of a normalizer, pre-tokenizer or decoder, those inside sequences counted too: each is a level of recursion.
constexpr size_t most_tokenizer_steps = 64;

/// Bytes that a text of `before` may become: what NFKD's longest entry (U+FDFA: 3 bytes become 33) does in every character, and several times as much.
constexpr size_t most_grown_bytes(size_t before) { return 64 * before + 65536; }

/// Throws Error(input) when `after` is more than `most`.
inline void check_growth(size_t after, size_t most, const char* what) {
  if (after > most) throw Error(ErrorKind::input, fmt::format("{}: makes more than {} bytes of a text", what, most));
}

}  // namespace llmc
