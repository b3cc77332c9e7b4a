// Owns the simulated key/value cache in few bits: what attention reads back after keys and values were stored as codes.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace llmc {

/// Values of a head that share a scale and a zero point: the head cut into the fewest equal spans of at most 64 (the last
/// may be shorter). The scales are part of the cache, so spans are a compromise between error and size.
int64_t cache_span(int64_t head_dim);

/// Rounds keys (after rotation) or values in place, each row (token), head and span on its own grid: linear, with the range
/// of its values and 0, as make_dynamic_grid makes it. A span that holds NaN or infinity becomes NaN.
void round_cache(MatrixView rows, int64_t head_dim, int bits);

}  // namespace llmc
