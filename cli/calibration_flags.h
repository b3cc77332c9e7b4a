// Owns the flags that say what a model is calibrated on.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "calib/calibration_options.h"

namespace llmc {

/// Flags as given.
struct CalibrationFlags {
  CalibrationOptions options;
  std::string packing = std::string(to_string(Packing::packed));
  std::string precision = std::string(to_string(CalibrationOptions().precision));
  std::string activations = "f32";
};
void add_calibration_flags(CLI::App& app, CalibrationFlags& flags);
/// Throws Error(usage) for a word that is not known.
CalibrationOptions read_calibration_flags(const CalibrationFlags& flags);

/// The flags of the group that were given.
std::vector<std::string> given_calibration_flags(const CLI::App& app);

}  // namespace llmc
