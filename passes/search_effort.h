// Owns how far a search for blocks goes, by the number of levels.
#pragma once

#include "formats/gguf/block.h"

namespace llmc {

/// Starts at which the outermost weight is (levels + offset) steps away, closer ones around the best of them, then turns of codes and
/// scales.
struct SearchEffort {
  float first = 0, step = 0;
  int starts = 0;       ///< 1, or taken two at a time: for a few asymmetric levels from both ends, for others an even number from one
  int zooms = 0;        ///< each half as far from the best as the one before
  int turns = 0;        ///< of a span's own fit
  int block_turns = 0;  ///< of integers and d
};

/// `fixed_point`: with sums in fixed point, where starts far apart and closer ones in steps pay off.
inline SearchEffort search_effort(const BlockGrid& grid, bool fixed_point) {
  const size_t levels = grid.levels.size();
  if (fixed_point && levels > 8) return {.first = -0.9f, .step = 0.8f, .starts = 3, .zooms = 2};
  if (fixed_point) return {.first = -0.7f, .step = 0.7f, .starts = 3, .zooms = 1, .block_turns = 1};
  if (levels > 64) return {.first = 0, .step = 1, .starts = 1, .turns = 1};
  if (levels > 32) return {.first = -0.6f, .step = 0.3f, .starts = 6, .turns = 1, .block_turns = 1};
  if (levels > 16) return {.first = -0.9f, .step = 0.3f, .starts = 8, .turns = 1, .block_turns = 1};
  if (levels > 8) return {.first = -0.9f, .step = 0.3f, .starts = 10, .turns = 2, .block_turns = 2};
  return {.first = -0.9f, .step = 0.3f, .starts = 8, .turns = 2, .block_turns = 3};
}

}  // namespace llmc
