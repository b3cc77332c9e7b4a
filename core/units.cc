#include "core/units.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace llmc {
namespace {

/// Reads the number in front and returns it with what follows.
std::pair<double, std::string_view> split_number(const std::string& text, const std::string& what, const char* example) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value) || value < 0)
    throw Error(ErrorKind::usage, fmt::format("{}: expected something like {}, found '{}'", what, example, text));
  return {value, std::string_view(end, static_cast<size_t>(text.data() + text.size() - end))};
}

}  // namespace

uint64_t parse_size(const std::string& text, const std::string& what) {
  constexpr std::pair<std::string_view, double> units[] = {{"", 1}, {"B", 1}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  const auto [value, unit] = split_number(text, what, "40MB");
  for (const auto& [name, factor] : units)
    if (unit == name && value * factor < 0x1p63) return static_cast<uint64_t>(value * factor);
  throw Error(ErrorKind::usage, fmt::format("{}: expected a size such as 40MB or 1.5GiB, found '{}'", what, text));
}

double parse_share(const std::string& text, const std::string& what) {
  const auto [value, unit] = split_number(text, what, "1% or 0.01");
  if (unit == "%") return value / 100;
  if (unit.empty()) return value;
  throw Error(ErrorKind::usage, fmt::format("{}: expected a share such as 1% or 0.01, found '{}'", what, text));
}

std::string format_size(uint64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (value >= 1e9) return fmt::format("{:.2f} GB", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.2f} MB", value / 1e6);
  if (value >= 1e3) return fmt::format("{:.2f} kB", value / 1e3);
  return fmt::format("{} B", bytes);
}

}  // namespace llmc
