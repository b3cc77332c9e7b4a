// Owns "did you mean": the nearest known name to one that is not known.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace llmc {

/// " (did you mean \"x\"?)" when a name is close enough (Levenshtein distance at most a third of its length), else "".
/// Names of more than 100 letters are not looked for.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& known);

}  // namespace llmc
