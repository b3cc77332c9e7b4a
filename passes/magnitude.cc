#include "passes/magnitude.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace llmc {
namespace {

/// Bits of |x|: they order like the magnitudes.
uint32_t magnitude_bits(float x) { return std::bit_cast<uint32_t>(x) & 0x7fffffffu; }

/// Zeroes values under `threshold`, and the first `ties` equal to it.
int64_t zero_below(std::span<float> values, uint32_t threshold, int64_t& ties) {
  int64_t changed = 0;
  for (float& value : values) {
    const uint32_t bits = magnitude_bits(value);
    if (bits > threshold || (bits == threshold && ties-- <= 0)) continue;
    changed += bits != 0;
    value = 0;
  }
  return changed;
}

}  // namespace

int64_t zero_smallest(std::span<float> values, int64_t zeros) {
  if (zeros <= 0) return 0;
  std::vector<uint32_t> bits(values.size());
  std::ranges::transform(values, bits.begin(), magnitude_bits);
  const auto nth = bits.begin() + (zeros - 1);
  std::ranges::nth_element(bits, nth);
  const uint32_t threshold = *nth;
  int64_t ties = zeros - std::count_if(bits.begin(), nth, [&](uint32_t b) { return b < threshold; });
  return zero_below(values, threshold, ties);
}

int64_t zero_pattern(std::span<float> row, int64_t kept, int64_t block) {
  int64_t changed = 0;
  for (size_t start = 0; start < row.size(); start += static_cast<size_t>(block))
    changed += zero_smallest(row.subspan(start, static_cast<size_t>(block)), block - kept);
  return changed;
}

void MagnitudeThreshold::count(std::span<const float> values) {
  for (float value : values) {
    const uint32_t bits = magnitude_bits(value);
    if (pass_ == 0) ++histogram_[bits >> 16];
    else if (bits >> 16 == prefix_) ++histogram_[bits & 0xffffu];
  }
}

void MagnitudeThreshold::refine() {
  uint32_t bin = 0;
  while (bin + 1 < histogram_.size() && histogram_[bin] < zeros_) zeros_ -= histogram_[bin++];
  prefix_ = pass_ == 0 ? bin : prefix_ << 16 | bin;
  std::ranges::fill(histogram_, 0);
  ++pass_;
}

int64_t MagnitudeThreshold::zero(std::span<float> values) { return zero_below(values, prefix_, zeros_); }

}  // namespace llmc
