// Owns the texts that come with llmc, so that a command always has something to calibrate and to judge on.
#pragma once

#include <string_view>

namespace llmc {

/// Held-out English text (UTF-8): the same bytes as sample_models/quill-7m/held_out.txt.
std::string_view bundled_text();

/// English text (UTF-8) to calibrate on, disjoint from bundled_text(): the bytes of calib/data/calibration.txt.
std::string_view bundled_calibration_text();

}  // namespace llmc
