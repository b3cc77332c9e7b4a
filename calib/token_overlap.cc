#include "calib/token_overlap.h"

#include <algorithm>
#include <cstddef>

namespace llmc {

namespace {

/// Calls `found(position, hash)` for every run of a sequence, with a rolling polynomial hash modulo 2^64.
template <typename Found>
void for_each_run(std::span<const int32_t> tokens, Found found) {
  constexpr uint64_t base = 0x9e3779b97f4a7c15ull;  // odd, so that powers keep every bit of a token
  constexpr auto length = static_cast<size_t>(overlap_run);
  uint64_t highest = 1;
  for (size_t i = 1; i < length; ++i) highest *= base;
  uint64_t hash = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i >= length) hash -= highest * (static_cast<uint64_t>(tokens[i - length]) + 1);
    hash = hash * base + static_cast<uint64_t>(tokens[i]) + 1;
    if (i + 1 >= length) found(i + 1 - length, hash);
  }
}

struct Run {
  uint64_t hash = 0;
  const int32_t* tokens = nullptr;
};

}  // namespace

TokenOverlap find_overlap(const std::vector<std::vector<int32_t>>& samples, std::span<const std::span<const int32_t>> windows) {
  std::vector<Run> known;
  for (const auto& sample : samples) for_each_run(sample, [&](size_t at, uint64_t hash) { known.push_back({hash, sample.data() + at}); });
  std::ranges::sort(known, {}, &Run::hash);
  TokenOverlap overlap;
  for (std::span<const int32_t> window : windows) {
    for_each_run(window, [&](size_t at, uint64_t hash) {
      const auto [first, last] = std::equal_range(known.begin(), known.end(), Run{.hash = hash}, [](const Run& a, const Run& b) { return a.hash < b.hash; });
      const bool is_shared = std::any_of(first, last, [&](const Run& run) { return std::equal(run.tokens, run.tokens + overlap_run, window.begin() + static_cast<std::ptrdiff_t>(at)); });
      ++overlap.runs;
      overlap.shared += is_shared;
    });
  }
  return overlap;
}

}  // namespace llmc
