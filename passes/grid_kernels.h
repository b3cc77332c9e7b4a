// Owns rounding of many weights to one grid in vector code: the loops in which a search for a range spends its time.
#pragma once

#include <cstdint>
#include <span>

namespace llmc {

/// rounded = scale · (clamp(round(clamp(x / scale)) + zero, lowest, highest) − zero), ties to even: Grid::even_value of
/// Grid::even_code, bit for bit.
void round_evenly(std::span<const float> x, float scale, float zero, float lowest, float highest, std::span<float> rounded);

/// The value after each threshold that x / scale exceeds: values[0] if none, values[i + 1] past thresholds[i], which ascend.
void round_by_thresholds(std::span<const float> x, float scale, std::span<const float> thresholds, std::span<const float> values, std::span<float> rounded);

}  // namespace llmc
