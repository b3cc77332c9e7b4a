// Owns what a quantized block of a GGUF file says, apart from how its bytes are laid out.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace llmc {

/// Weight i, of span k = i / span, is (d · scales[k]) · levels[codes[i]] − dmin · mins[k], each product rounded to f32. What a type
/// does not store is 1, or 0 for minima.
struct Block {
  static constexpr int64_t most_weights = 256;
  static constexpr int64_t most_spans = 16;

  float d = 1;
  float dmin = 0;
  std::array<float, most_spans> scales;  ///< small integers, or small floats with d = 1
  std::array<float, most_spans> mins;
  std::array<uint8_t, most_weights> codes;
};

/// What a block stores the scales of its spans as.
enum class BlockScale {
  f16,      ///< d alone, of either sign: one span
  integer,  ///< an f16 d for the block times an integer for each span
  e8m0,     ///< a power of two: one span
  e4m3,     ///< an unsigned 8-bit float for each span
};
/// What a block stores the minima of its spans as.
enum class BlockMin {
  none,
  f16,      ///< dmin alone, of either sign: one span
  integer,  ///< an f16 dmin for the block times an integer for each span, 0 to the largest scale
};

/// What a block type can say: all that a rounding method knows of it.
struct BlockGrid {
  int64_t span = 0;                   ///< weights that share a scale
  std::span<const int8_t> levels;     ///< ascending
  int lowest_code = 0;                ///< of those that are written; readers take every level
  int highest_code = 0;
  BlockScale scale = BlockScale::f16;
  int lowest_scale = 1;               ///< for BlockScale::integer
  int highest_scale = 1;
  BlockMin min = BlockMin::none;

  /// Whether the levels are consecutive integers.
  bool is_even() const { return levels.back() - levels.front() == static_cast<int>(levels.size()) - 1; }
};

}  // namespace llmc
