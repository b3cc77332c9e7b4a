// Owns the levels that codes of a block type mean, and which one is nearest to a place.
#pragma once

#include <array>
#include <cstddef>

#include "formats/gguf/block.h"

namespace llmc {

struct LevelSteps {
  explicit LevelSteps(const BlockGrid& grid);

  /// The code of the level nearest to a place, and the level of a code.
  int code(float place) const;
  float level(int code) const { return even ? first + static_cast<float>(code) : levels[static_cast<size_t>(code)]; }

  bool even = false;
  float lowest = 0, highest = 0;       ///< of the levels that are written
  float first = 0;                     ///< the level of code 0, if even
  int steps = 0;                       ///< levels but the first, if not even
  std::array<float, 16> levels = {};   ///< if not even; the last one again to the end
  std::array<float, 15> borders = {};  ///< half-way between them; infinite behind the last
};

}  // namespace llmc
