// Owns the oracle's rotary angles, written from the papers apart from model/rope.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace llmc {

/// [rotated values / 2] radians per position in a sequence of `length`, rounded to f32 as models were trained with them.
std::vector<float> oracle_rope_frequencies(const Rope& rope, int64_t length);

}  // namespace llmc
