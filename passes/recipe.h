// Owns recipes: the steps of a run and how its result is stored, as YAML (of which JSON is a subset).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calib/calibration_options.h"
#include "passes/gguf_options.h"

namespace llmc {

constexpr int recipe_version = 1;

enum class Format {
  automatic,    ///< compressed-tensors where it can say everything, else llmc's packed container
  huggingface,  ///< compressed-tensors for codes, dense floats (zeros written out) for the rest; an error where it cannot
  packed,       ///< llmc's packed container
  gguf,         ///< a GGUF file
};
std::string_view to_string(Format format);
/// "auto", "hf", "packed", "gguf". Throws Error(usage).
Format parse_format(const std::string& text);

struct Recipe {
  uint64_t seed = 0;                  ///< picks calibration samples, and the sample that the oracle checks
  Format format = Format::automatic;
  GgufOptions gguf;                   ///< when that is the format
  std::optional<uint64_t> shard_bytes;  ///< most bytes of tensors in a file of the artifact (shard_size); none: one file
  bool untie_head = false;            ///< give a tied head a matrix of its own before the first step
  std::optional<CalibrationOptions> calibration;  ///< when a step needs it
  std::vector<std::string> vocabulary;  ///< texts: before the first step, tokens that they do not use are dropped; none: all stay
  std::vector<nlohmann::json> steps;  ///< each an object with "pass" and its options
};

/// Fields: version, seed, format, shard_size, calibration (only when a step needs it; defaults without), vocabulary, steps (at least one, unless there is a vocabulary or the format is gguf), gguf (with that format only). Unknown fields, duplicate keys and unknown passes are errors (Error(input)).
Recipe parse_recipe(std::string_view yaml, const std::string& where);

/// Reads the steps, fills in their defaults, and gives the recipe calibration options if a step needs them and it has none.
/// Throws as make_pass does, and Error(usage) when there are calibration options that no step needs.
void complete_recipe(Recipe& recipe, const std::string& where);

/// The recipe as JSON, and as YAML text that parse_recipe reads back.
nlohmann::json to_json(const Recipe& recipe);
std::string to_yaml(const Recipe& recipe);

}  // namespace llmc
