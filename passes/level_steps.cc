#include "passes/level_steps.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

namespace llmc {

LevelSteps::LevelSteps(const BlockGrid& grid) : even(grid.is_even()), lowest(grid.levels[static_cast<size_t>(grid.lowest_code)]), highest(grid.levels[static_cast<size_t>(grid.highest_code)]), first(grid.levels.front()) {
  if (even) return;
  assert(grid.levels.size() <= levels.size());
  steps = static_cast<int>(grid.levels.size()) - 1;
  levels.fill(grid.levels.back());
  borders.fill(std::numeric_limits<float>::infinity());
  std::ranges::copy(grid.levels, levels.begin());
  for (size_t i = 0; i < static_cast<size_t>(steps); ++i) borders[i] = (levels[i] + levels[i + 1]) / 2;
}

int LevelSteps::code(float place) const {
  if (even) return static_cast<int>(std::clamp(std::nearbyint(place), lowest, highest) - first);
  int code = 0;
  while (code < steps && place > borders[static_cast<size_t>(code)]) ++code;
  return code;
}

}  // namespace llmc
