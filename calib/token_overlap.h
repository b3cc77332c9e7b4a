// Owns finding out whether evaluation tokens were calibrated on.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace llmc {

/// Tokens in a run that counts as the same text: about two sentences, which prose does not repeat by chance.
constexpr int64_t overlap_run = 32;

struct TokenOverlap {
  int64_t runs = 0;    ///< of `overlap_run` tokens in the evaluation windows
  int64_t shared = 0;  ///< of them, those that also occur in a calibration sample, token by token

  double share() const { return runs == 0 ? 0 : static_cast<double>(shared) / static_cast<double>(runs); }
};
/// Compares every run of every window. Samples and windows that are shorter than a run have none.
TokenOverlap find_overlap(const std::vector<std::vector<int32_t>>& samples, std::span<const std::span<const int32_t>> windows);

}  // namespace llmc
