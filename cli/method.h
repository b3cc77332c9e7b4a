// Owns what the commands with a --method have in common: from its name to a step of a recipe, calibrated where it must be.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/calibration_flags.h"
#include "passes/recipe.h"

namespace llmc {

/// The name of the pass `command.method`. Throws Error(usage) that lists the methods.
std::string find_method(const std::string& command, const std::string& method);

/// Checks the last step of a recipe, which came from flags, and gives the recipe the calibration flags if the step needs
/// calibration. `what` names the step ("--method gptq"). Throws Error(usage) for an option that the method does not have, and for calibration flags that it has no use for.
void take_calibration(Recipe& recipe, const std::string& what, const CalibrationFlags& flags, const CLI::App& app);

}  // namespace llmc
