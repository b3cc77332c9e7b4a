// Owns quantization schemes: what the codes of a weight mean, apart from how they are stored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/dtype.h"
#include "formats/activation_scheme.h"
#include "formats/mapping.h"

namespace llmc {

enum class Granularity { tensor, channel, group };

std::string_view to_string(Granularity granularity);

/// A grid of 2^bits evenly spaced values for every tensor, channel (row) or group of a row.
struct Scheme {
  int bits = 8;
  Mapping mapping = Mapping::symmetric;
  Granularity granularity = Granularity::channel;
  int64_t group_size = 0;  ///< weights along a row that share a scale; 0 unless granularity is group
  std::optional<ActivationScheme> input = std::nullopt;  ///< how the layer's input is rounded while it runs; none: not at all (A16)

  int lowest_code() const { return -(1 << (bits - 1)); }
  int highest_code() const { return (1 << (bits - 1)) - 1; }
  bool operator==(const Scheme&) const = default;
};

/// "W4A16-g32-linear", "W8A8-channel-symmetric-static-linear"; parse_scheme reads it back.
std::string to_string(const Scheme& scheme);

/// Reads a preset and modifiers joined with '-': W8A16 (8 bits, channel), W4A16 (4 bits, groups of 128), W2A16 … W7A16;
/// then `symmetric` or `linear`, `tensor`, `channel` or `gN`. After A8 or A4 (inputs in 8 or 4 bits) `dynamic` or `static`
/// may follow, and what stands after that word (`symmetric` or `linear`) is about the input. Throws Error(usage) that lists
/// what is known.
Scheme parse_scheme(const std::string& text);

/// Throws Error(usage) when bits are outside 2..8 (4 or 8 for inputs) or granularity and group size contradict.
void check_scheme(const Scheme& scheme);

/// The type in which a scheme stores its scales: that of a 16-bit weight, else bf16 for groups and f32 otherwise.
DType scale_dtype_for(const Scheme& scheme, DType weight);

}  // namespace llmc
