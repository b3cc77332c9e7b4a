// Owns what numbers flags take: exactly what was written, in the range that is asked for, and no NaN.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>

namespace llmc {

/// An integer from `least` to `most`, both included.
CLI::Validator whole_number(int64_t least, int64_t most = std::numeric_limits<int64_t>::max());
/// A finite number from `least` to `most`, both included.
CLI::Validator real_number(double least, double most);
/// A finite number above 0.
CLI::Validator positive_number();

/// Makes every flag of the command whose value is a number refuse NaN, infinities, and integers that would be cut to what fits.
void refuse_wrong_numbers(CLI::App& command);

}  // namespace llmc
