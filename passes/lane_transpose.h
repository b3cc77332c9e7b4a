// Owns the way between blocks one after another and blocks side by side, one in each lane.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "passes/block_batch.h"

namespace llmc {

/// `rows` (at most sixteen) of `count` values, a multiple of 16, to [count, lanes]; lanes without a row become 0.
void to_lanes(std::span<const float* const> rows, size_t count, float* lanes);

/// [count, lanes] to rows of `count` codes, a multiple of 16.
void from_lanes(const uint8_t* lanes, size_t count, std::span<uint8_t* const> rows);

}  // namespace llmc
