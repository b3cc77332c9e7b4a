#include "cli/number_checks.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>
#include <string>

namespace llmc {
namespace {

/// What is wrong with a text as an integer of that range, or "". A leading 0 would mean octal digits to CLI11.
template <typename Integer>
std::string explain_integer(const std::string& text, Integer least, Integer most, const std::string& expected) {
  Integer value = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range && at == end && text.front() != '-') return fmt::format("expected a whole number up to {}, found {}", most, text);
  const size_t first = text.starts_with('-') ? 1 : 0;
  const bool is_octal = text.size() > first + 1 && text[first] == '0';
  return error != std::errc() || at != end || is_octal || value < least || value > most ? fmt::format("expected {}, found {}", expected, text) : "";
}

/// A number that is neither NaN nor infinite.
std::optional<double> read_finite(const std::string& text) {
  double value = NAN;
  return CLI::detail::lexical_cast(text, value) && std::isfinite(value) ? std::optional(value) : std::nullopt;
}

}  // namespace

CLI::Validator whole_number(int64_t least, int64_t most) {
  const std::string range = most == std::numeric_limits<int64_t>::max() ? fmt::format("from {}", least) : fmt::format("from {} to {}", least, most);
  return {[=](const std::string& text) { return explain_integer(text, least, most, "a whole number " + range); }, range};
}

CLI::Validator real_number(double least, double most) {
  const std::string range = fmt::format("{} to {}", least, most);
  return {[=](const std::string& text) {
            const auto value = read_finite(text);
            return value && *value >= least && *value <= most ? std::string() : fmt::format("expected {}, found {}", range, text);
          },
          range};
}

CLI::Validator positive_number() {
  return {[](const std::string& text) {
            const auto value = read_finite(text);
            return value && *value > 0 ? std::string() : fmt::format("expected a number above 0, found {}", text);
          },
          "above 0"};
}

void refuse_wrong_numbers(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    const std::string type = option->get_type_name();
    if (type.starts_with("INT")) option->check([](const std::string& text) { return explain_integer(text, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), "a whole number"); });
    else if (type.starts_with("UINT")) option->check([](const std::string& text) { return explain_integer(text, uint64_t{0}, std::numeric_limits<uint64_t>::max(), "a whole number from 0"); });
    else if (type.starts_with("FLOAT")) option->check([](const std::string& text) { return read_finite(text) ? std::string() : fmt::format("expected a number, found {}", text); });
  }
}

}  // namespace llmc
