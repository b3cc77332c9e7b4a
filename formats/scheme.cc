#include "formats/scheme.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "core/error.h"

namespace llmc {

std::string_view to_string(Mapping mapping) { return mapping == Mapping::symmetric ? "symmetric" : "linear"; }

std::string_view to_string(Granularity granularity) {
  switch (granularity) {
    case Granularity::tensor: return "tensor";
    case Granularity::channel: return "channel";
    case Granularity::group: return "group";
  }
  return "?";
}

std::string to_string(const Scheme& scheme) {
  const std::string span = scheme.granularity == Granularity::group ? fmt::format("g{}", scheme.group_size) : std::string(to_string(scheme.granularity));
  if (!scheme.input) return fmt::format("W{}A16-{}-{}", scheme.bits, span, to_string(scheme.mapping));
  const std::string input = to_string(*scheme.input);  // "A8-dynamic": the bits belong to the front of the name
  return fmt::format("W{}{}-{}-{}{}", scheme.bits, input.substr(0, 2), span, to_string(scheme.mapping), input.substr(2));
}

Scheme parse_scheme(const std::string& text) {
  const auto refuse = [&](std::string_view part) -> Error {
    return Error(ErrorKind::usage, fmt::format("scheme '{}': '{}' is not understood; expected W2A16 … W8A16 (or A8, A4), then any of symmetric, linear, tensor, channel, gN joined with '-', such as W4A16-g32-linear; after A8 or A4 also dynamic or static, and symmetric or linear for the input, such as W8A8-static-linear", text, part));
  };
  const auto read_number = [&](std::string_view digits, std::string_view part) {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size()) throw refuse(part);
    return number;
  };

  Scheme scheme;
  bool is_about_input = false;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find('-', start), text.size());
    const std::string_view part = std::string_view(text).substr(start, end - start);
    const bool is_preset = start == 0;
    start = end + 1;
    if (is_preset) {
      if (part.size() < 4 || part[0] != 'W' || part[2] != 'A') throw refuse(part);
      const std::string_view input_bits = part.substr(3);
      if (input_bits == "8" || input_bits == "4") scheme.input = {.bits = input_bits == "8" ? 8 : 4};
      else if (input_bits != "16") throw refuse(part);
      scheme.bits = static_cast<int>(read_number(part.substr(1, 1), part));
      if (scheme.bits != 8) scheme.granularity = Granularity::group, scheme.group_size = 128;
    } else if (scheme.input && !is_about_input && (part == "dynamic" || part == "static")) {
      scheme.input->range = part == "dynamic" ? InputRange::per_token : InputRange::calibrated;
      is_about_input = true;
    } else if (part == "symmetric" || part == "linear") {
      (is_about_input ? scheme.input->mapping : scheme.mapping) = part == "linear" ? Mapping::linear : Mapping::symmetric;
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

void check_scheme(const Scheme& scheme) {
  if (scheme.bits < 2 || scheme.bits > 8)
    throw Error(ErrorKind::usage, fmt::format("bits: expected 2 to 8, found {}", scheme.bits));
  if (scheme.input) check_activation_scheme(*scheme.input);
  if (scheme.granularity == Granularity::group && scheme.group_size < 1)
    throw Error(ErrorKind::usage, fmt::format("group size: expected a positive number, found {}", scheme.group_size));
  if (scheme.granularity != Granularity::group && scheme.group_size != 0)
    throw Error(ErrorKind::usage, fmt::format("group size {} makes sense only with granularity group, found granularity {}", scheme.group_size, to_string(scheme.granularity)));
}

DType scale_dtype_for(const Scheme& scheme, DType weight) {
  if (weight != DType::f32) return weight;
  return scheme.granularity == Granularity::group ? DType::bf16 : DType::f32;
}

}  // namespace llmc
