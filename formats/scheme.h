// Owns quantization schemes: what the codes of a weight mean, apart from how they are stored.
#pragma once

#include <cstdint>
#include <string>

#include "core/dtype.h"

namespace llmc {

/// symmetric: x = s · q.  linear: x = s · (q − z) with an integer zero point z, so that 0 is always on the grid.
enum class Mapping { symmetric, linear };
enum class Granularity { tensor, channel, group };

std::string_view to_string(Mapping mapping);
std::string_view to_string(Granularity granularity);

/// A grid of 2^bits evenly spaced values for every tensor, channel (row) or group of a row.
struct Scheme {
  int bits = 8;
  Mapping mapping = Mapping::symmetric;
  Granularity granularity = Granularity::channel;
  int64_t group_size = 0;  ///< weights along a row that share a scale; 0 unless granularity is group

  int lowest_code() const { return -(1 << (bits - 1)); }
  int highest_code() const { return (1 << (bits - 1)) - 1; }
  bool operator==(const Scheme&) const = default;
};

/// "W4A16-g32-linear"; parse_scheme reads it back.
std::string to_string(const Scheme& scheme);

/// Reads a preset and modifiers joined with '-': W8A16 (8 bits, channel), W4A16 (4 bits, groups of 128), W2A16 … W7A16;
/// then `symmetric` or `linear`, `tensor`, `channel` or `gN`. Throws Error(usage) that lists what is known.
Scheme parse_scheme(const std::string& text);

/// Throws Error(usage) when bits are outside 2..8 or granularity and group size contradict.
void check_scheme(const Scheme& scheme);

/// The type in which a scheme stores its scales: that of a 16-bit weight, else bf16 for groups and f32 otherwise.
DType scale_dtype_for(const Scheme& scheme, DType weight);

}  // namespace llmc
