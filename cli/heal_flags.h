// Owns the flags with which quantize and prune train what they left free.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "passes/recipe.h"

namespace llmc {

struct HealFlags {
  bool heal = false;
  std::optional<int64_t> epochs;
  std::string scope;  ///< empty: not given
};

void add_heal_options(CLI::App& app, HealFlags& flags);
/// Adds the step that the flags ask for, if any, after those that are there. Throws Error(usage) for the others without --heal.
void add_heal_step(Recipe& recipe, const HealFlags& flags);

}  // namespace llmc
