// Owns the codecs that leave zeros out: each way to say positions, over floats and over codes.
#pragma once

#include <span>

#include "formats/codec.h"

namespace llmc {

/// gaps, coo, csr, n-of-m and blocks over floats; the same and bitmask with "+packed-codes" over codes, scales packed too.
std::span<const Codec> sparse_codecs();

}  // namespace llmc
