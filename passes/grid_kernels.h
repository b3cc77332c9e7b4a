// Owns rounding of many weights to one grid in vector code: the loops in which a search for a range spends its time.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace llmc {

/// rounded = scale · (clamp(round(clamp(x / scale)) + zero, lowest, highest) − zero), ties to even: Grid::even_value of
/// Grid::even_code, bit for bit.
void round_evenly(std::span<const float> x, float scale, float zero, float lowest, float highest, std::span<float> rounded);

/// clamp(round(clamp(x / scale)) + zero, lowest, highest): Grid::even_code, bit for bit.
void code_evenly(std::span<const float> x, float scale, float zero, float lowest, float highest, std::span<int8_t> codes);

/// Lowers `low` to the smallest value, where it is above that, and raises `high` to the largest.
void widen_range(std::span<const float> x, float& low, float& high);

/// Sums of squared errors, each of every sixteenth value.
using PartialSums = std::array<float, 16>;

/// Adds w · (x − rounded)² of each value, as round_evenly gives it, to the sum of its place modulo 16; the count is a multiple of 16.
/// `importance`: w of each value, or nullptr for 1. With `mirrored`, the same of the grid of −scale is added there; zero is 0 then.
void add_squared_errors(std::span<const float> x, const float* importance, float scale, float zero, float lowest, float highest, PartialSums& sums, PartialSums* mirrored);

/// The value after each threshold that x / scale exceeds: values[0] if none, values[i + 1] past thresholds[i], which ascend.
void round_by_thresholds(std::span<const float> x, float scale, std::span<const float> thresholds, std::span<const float> values, std::span<float> rounded);

}  // namespace llmc
