// Owns going through JSON Lines: a value on each line.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/json.h"

namespace llmc {

/// Calls body(value, where) for every line that is not blank; `where` is "name:line". Throws Error(input) where a line is no JSON.
void for_each_json_line(std::string_view text, const std::string& name, auto body) {
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", name, number);
    body(parse_json(line, where), where);
  }
}

}  // namespace llmc
