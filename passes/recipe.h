// Owns recipes: the steps of a run and how its result is stored, as YAML (of which JSON is a subset).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace llmc {

constexpr int recipe_version = 1;

enum class Format {
  automatic,    ///< compressed-tensors where it can say everything, else llmc's packed container
  huggingface,  ///< compressed-tensors for codes, dense floats (zeros written out) for the rest; an error where it cannot
  packed,       ///< llmc's packed container
};
std::string_view to_string(Format format);
/// "auto", "hf", "packed". Throws Error(usage).
Format parse_format(const std::string& text);

struct Recipe {
  uint64_t seed = 0;                  ///< picks the sample that the oracle checks
  Format format = Format::automatic;
  bool untie_head = false;            ///< give a tied head a matrix of its own before the first step
  std::vector<nlohmann::json> steps;  ///< each an object with "pass" and its options
};

/// Fields: version, seed, format, steps. Unknown fields, duplicate keys and unknown passes are errors (Error(input)).
Recipe parse_recipe(std::string_view yaml, const std::string& where);

/// The recipe as JSON, and as YAML text that parse_recipe reads back.
nlohmann::json to_json(const Recipe& recipe);
std::string to_yaml(const Recipe& recipe);

}  // namespace llmc
