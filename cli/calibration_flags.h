// Owns the flags that say what a model is calibrated on.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "calib/calibration_options.h"

namespace llmc {

/// Flags as given.
struct CalibrationFlags {
  CalibrationOptions options;
  std::string packing = std::string(to_string(Packing::packed));
};
void add_calibration_flags(CLI::App& app, CalibrationFlags& flags);
/// Throws Error(usage) for a word that is not known.
CalibrationOptions read_calibration_flags(const CalibrationFlags& flags);

}  // namespace llmc
