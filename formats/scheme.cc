#include "formats/scheme.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>

#include "core/error.h"

namespace llmc {
namespace {

constexpr std::string_view unrounded_input = "A16";  // how names of presets end
constexpr std::string_view codebook_prefix = "codebook";

constexpr std::array presets = {
    Preset{"FP8A16", {.bits = 8, .grid = GridKind::fp8_e4m3}, "8-bit floats E4M3, a scale per channel"},
    Preset{"FP8A8", {.bits = 8, .grid = GridKind::fp8_e4m3, .input = ActivationScheme{.is_float = true}}, "the same, and inputs as such floats with a scale per token"},
    Preset{"FP8_E5M2A16", {.bits = 8, .grid = GridKind::fp8_e5m2}, "8-bit floats E5M2, a scale per channel"},
    Preset{"MXFP8A16", {.bits = 8, .granularity = Granularity::group, .group_size = 32, .grid = GridKind::fp8_e4m3, .scale = ScaleKind::power_of_two}, "OCP MX: 8-bit floats E4M3 in groups of 32 with power-of-two scales"},
    Preset{"MXFP4A16", {.bits = 4, .granularity = Granularity::group, .group_size = 32, .grid = GridKind::fp4_e2m1, .scale = ScaleKind::power_of_two}, "OCP MX: 4-bit floats E2M1 in groups of 32 with power-of-two scales"},
    Preset{"NVFP4A16", {.bits = 4, .granularity = Granularity::group, .group_size = 16, .grid = GridKind::fp4_e2m1, .scale = ScaleKind::e4m3}, "4-bit floats E2M1 in groups of 16 with E4M3 scales and a scale of the tensor"},
    Preset{"NF4", {.bits = 4, .granularity = Granularity::group, .group_size = 64, .grid = GridKind::nf4}, "16 normal quantiles in groups of 64"},
};

const Preset* find_preset(const Scheme& scheme) {
  const auto found = std::ranges::find_if(presets, [&](const Preset& preset) { return preset.scheme.grid == scheme.grid && preset.scheme.scale == scheme.scale; });
  return found == std::end(presets) ? nullptr : &*found;
}

/// Of a scheme that check_scheme lets pass.
const Preset& get_preset(const Scheme& scheme) { return *find_preset(scheme); }

}  // namespace

std::string_view to_string(Mapping mapping) { return mapping == Mapping::symmetric ? "symmetric" : "linear"; }

std::string_view to_string(Granularity granularity) {
  switch (granularity) {
    case Granularity::tensor: return "tensor";
    case Granularity::channel: return "channel";
    case Granularity::group: return "group";
  }
  return "?";
}

int Scheme::lowest_level_code() const {
  const FloatFormat* format = find_float_format(grid);
  return format ? -format->largest : -(1 << (bits - 1));
}

int Scheme::highest_level_code() const {
  if (grid == GridKind::codebook) return lowest_level_code() + centroids - 1;
  const FloatFormat* format = find_float_format(grid);
  return format ? format->largest : (1 << (bits - 1)) - 1;
}

std::span<const Preset> preset_list() { return presets; }

std::string to_string(const Scheme& scheme) {
  const std::string span = scheme.granularity == Granularity::group ? fmt::format("g{}", scheme.group_size) : std::string(to_string(scheme.granularity));
  if (scheme.grid == GridKind::codebook) return fmt::format("{}{}-{}", codebook_prefix, scheme.centroids, span);
  if (scheme.grid != GridKind::integer) {
    const std::string_view name = get_preset(scheme).name;
    if (!scheme.input) return fmt::format("{}-{}", name, span);
    return fmt::format("{}A8-{}-{}", name.substr(0, name.size() - unrounded_input.size()), span, to_string(scheme.input->range));
  }
  if (!scheme.input) return fmt::format("W{}A16-{}-{}", scheme.bits, span, to_string(scheme.mapping));
  const std::string input = to_string(*scheme.input);  // "A8-dynamic": the bits belong to the front of the name
  return fmt::format("W{}{}-{}-{}{}", scheme.bits, input.substr(0, 2), span, to_string(scheme.mapping), input.substr(2));
}

Scheme parse_scheme(const std::string& text) {
  const auto refuse = [&](std::string_view part) -> Error {
    std::string names;
    for (const Preset& preset : presets) names += fmt::format(", {}", preset.name);
    return Error(ErrorKind::usage, fmt::format("scheme '{}': '{}' is not understood; expected W2A16 … W8A16 (or A8, A4){} or codebookK, then any of symmetric, linear, tensor, channel, gN joined with '-', such as W4A16-g32-linear; after A8 or A4 also dynamic or static, and symmetric or linear for the input, such as W8A8-static-linear", text, part, names));
  };
  const auto read_number = [&](std::string_view digits, std::string_view part) {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size()) throw refuse(part);
    return number;
  };
  const auto read_preset = [&](std::string_view part) -> Scheme {
    const auto preset = std::ranges::find(presets, part, &Preset::name);
    if (preset != presets.end()) return preset->scheme;
    if (part == "W4A16_ASYM") return {.bits = 4, .mapping = Mapping::linear, .granularity = Granularity::group, .group_size = 128};  // as llm-compressor calls it
    if (part.starts_with(codebook_prefix)) return make_codebook_scheme(read_number(part.substr(codebook_prefix.size()), part));
    if (part.size() < 4 || part[0] != 'W' || part[2] != 'A') throw refuse(part);
    const std::string_view input_bits = part.substr(3);
    if (input_bits != "16" && input_bits != "8" && input_bits != "4") throw refuse(part);
    Scheme scheme{.bits = static_cast<int>(read_number(part.substr(1, 1), part))};
    if (input_bits != "16") scheme.input = {.bits = input_bits == "8" ? 8 : 4};
    if (scheme.bits != 8) scheme.granularity = Granularity::group, scheme.group_size = 128;
    return scheme;
  };

  Scheme scheme;
  bool is_about_input = false;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find('-', start), text.size());
    const std::string_view part = std::string_view(text).substr(start, end - start);
    const bool is_preset = start == 0;
    start = end + 1;
    if (is_preset) {
      scheme = read_preset(part);
    } else if (scheme.input && !is_about_input && (part == "dynamic" || part == "static")) {
      scheme.input->range = part == "dynamic" ? InputRange::per_token : InputRange::calibrated;
      is_about_input = true;
    } else if (part == "symmetric" || part == "linear") {
      (is_about_input ? scheme.input->mapping : scheme.mapping) = part == "linear" ? Mapping::linear : Mapping::symmetric;
    } else if (is_about_input && part == "float") {
      scheme.input->is_float = true;
    } else if (is_about_input) {
      throw refuse(part);
    } else if (part == "tensor" || part == "channel") {
      scheme.granularity = part == "tensor" ? Granularity::tensor : Granularity::channel;
      scheme.group_size = 0;
    } else if (part.starts_with('g')) {
      scheme.granularity = Granularity::group;
      scheme.group_size = read_number(part.substr(1), part);
    } else {
      throw refuse(part);
    }
  }
  check_scheme(scheme);
  return scheme;
}

Scheme make_codebook_scheme(int64_t centroids) {
  if (centroids < 2 || centroids > 256) throw Error(ErrorKind::usage, fmt::format("codebook: expected 2 to 256 centroids, found {}", centroids));
  return {.bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(centroids - 1))), .granularity = Granularity::tensor, .grid = GridKind::codebook, .centroids = static_cast<int>(centroids)};
}

void check_scheme(const Scheme& scheme) {
  if (scheme.grid != GridKind::integer && scheme.grid != GridKind::codebook && !find_preset(scheme))
    throw Error(ErrorKind::usage, fmt::format("{}-bit floats: no format has them with scales of such a type", scheme.bits));
  if (scheme.grid == GridKind::integer && (scheme.bits < 2 || scheme.bits > 8))
    throw Error(ErrorKind::usage, fmt::format("bits: expected 2 to 8, found {}", scheme.bits));
  if (scheme.input) check_activation_scheme(*scheme.input);
  if (scheme.granularity == Granularity::group && scheme.group_size < 1)
    throw Error(ErrorKind::usage, fmt::format("group size: expected a positive number, found {}", scheme.group_size));
  if (scheme.granularity != Granularity::group && scheme.group_size != 0)
    throw Error(ErrorKind::usage, fmt::format("group size {} makes sense only with granularity group, found granularity {}", scheme.group_size, to_string(scheme.granularity)));
  if (scheme.grid == GridKind::integer) return;
  if (scheme.input && !(scheme.input->is_float && scheme.grid == GridKind::fp8_e4m3 && scheme.scale == ScaleKind::floating)) throw Error(ErrorKind::usage, fmt::format("{}: inputs in {} bits go with integer weights, or floats with such weights, only", to_string(scheme), scheme.input->bits));
  if (scheme.mapping == Mapping::linear)
    throw Error(ErrorKind::usage, fmt::format("{}: a zero point (linear) makes sense only on an integer grid", to_string(scheme)));
  if (scheme.scale == ScaleKind::floating) return;
  const Preset& preset = get_preset(scheme);
  if (scheme.granularity != Granularity::group || scheme.group_size != preset.scheme.group_size)
    throw Error(ErrorKind::usage, fmt::format("{}: the format has groups of {} and nothing else", preset.name, preset.scheme.group_size));
}

DType scale_dtype_for(const Scheme& scheme, DType weight) {
  if (scheme.scale == ScaleKind::power_of_two) return DType::f8_e8m0;
  if (scheme.scale == ScaleKind::e4m3) return DType::f8_e4m3;
  if (weight == DType::f16 && find_float_format(scheme.grid)) return DType::f32;
  if (weight == DType::f16 || weight == DType::bf16) return weight;
  return scheme.granularity == Granularity::group ? DType::bf16 : DType::f32;
}

double stored_bits(const Scheme& scheme, DType scale_dtype, int64_t rows, int64_t cols) {
  const double weights = static_cast<double>(rows * cols);
  const double weights_per_span = scheme.granularity == Granularity::group ? static_cast<double>(scheme.group_size) : scheme.granularity == Granularity::channel ? static_cast<double>(cols) : weights;
  const double scale_bits = 8.0 * static_cast<double>(get_info(scale_dtype).bytes);
  const double per_span = scheme.grid == GridKind::codebook ? scheme.centroids * scale_bits : scale_bits + (scheme.mapping == Mapping::linear ? scheme.bits : 0);
  const double per_tensor = scheme.scale == ScaleKind::e4m3 ? 32 : 0;
  return scheme.bits + per_span / weights_per_span + per_tensor / weights;
}

}  // namespace llmc
