// Owns quantization schemes: what the codes of a weight mean, apart from how they are stored.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/dtype.h"
#include "formats/activation_scheme.h"
#include "formats/levels.h"
#include "formats/mapping.h"

namespace llmc {

enum class Granularity { tensor, channel, group };
/// What a scale is. A codebook has none.
enum class ScaleKind {
  floating,      ///< f32, f16 or bf16
  power_of_two,  ///< E8M0, as the OCP MX formats have it
  e4m3,          ///< E4M3, divided by one f32 scale of the whole tensor, as NVFP4 has it
};

std::string_view to_string(Granularity granularity);

/// A grid for every tensor, channel (row) or group of a row.
struct Scheme {
  int bits = 8;
  Mapping mapping = Mapping::symmetric;
  Granularity granularity = Granularity::channel;
  int64_t group_size = 0;  ///< weights along a row that share a scale; 0 unless granularity is group
  GridKind grid = GridKind::integer;
  ScaleKind scale = ScaleKind::floating;
  int centroids = 0;       ///< 2 to 256; 0 unless grid is codebook
  std::optional<ActivationScheme> input = std::nullopt;  ///< how the layer's input is rounded while it runs; none: not at all (A16)

  int lowest_code() const { return grid == GridKind::integer ? -(1 << (bits - 1)) : lowest_level_code(); }
  int highest_code() const { return grid == GridKind::integer ? (1 << (bits - 1)) - 1 : highest_level_code(); }
  bool operator==(const Scheme&) const = default;

 private:
  int lowest_level_code() const;
  int highest_level_code() const;
};

/// A name that parse_scheme takes, for `llmc list`.
struct Preset {
  std::string_view name;
  Scheme scheme;
  std::string_view summary;
};
/// The named grids that are not evenly spaced.
std::span<const Preset> preset_list();

/// "W4A16-g32-linear", "NF4-g64", "codebook16-tensor", "W8A8-channel-symmetric-static-linear"; parse_scheme reads it back.
std::string to_string(const Scheme& scheme);

/// Reads a preset and modifiers joined with '-': W8A16 (8 bits, channel), W4A16 (4 bits, groups of 128), W2A16 … W7A16, a
/// name of preset_list(), or codebookK with 2 to 256 centroids; then `symmetric` or `linear`, `tensor`, `channel` or `gN`.
/// After A8 or A4 (inputs in 8 or 4 bits) `dynamic` or `static` may follow, and what stands after that word (`symmetric` or
/// `linear`) is about the input. Throws Error(usage) that lists what is known.
Scheme parse_scheme(const std::string& text);

/// A codebook of that many centroids, one for the whole tensor. Throws Error(usage) outside 2..256.
Scheme make_codebook_scheme(int64_t centroids);

/// Throws Error(usage) when bits are outside 2..8 (4 or 8 for inputs), granularity and group size contradict, or a format fixes
/// them otherwise.
void check_scheme(const Scheme& scheme);

/// The type in which a scheme stores its scales, or a codebook its centroids: what the scheme fixes, else that of a 16-bit
/// weight, else bf16 for groups and f32 otherwise; f32 for 8-bit floats on f16 weights, whose scales f16 would make coarse.
DType scale_dtype_for(const Scheme& scheme, DType weight);

/// Bits per weight of a matrix [rows, cols]: codes, scales, zero points and centroids.
double stored_bits(const Scheme& scheme, DType scale_dtype, int64_t rows, int64_t cols);

}  // namespace llmc
