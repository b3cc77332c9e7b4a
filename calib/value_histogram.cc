#include "calib/value_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace llmc {

namespace {

constexpr int log2_bins = std::countr_zero(static_cast<uint64_t>(ValueHistogram::bins));

/// Makes 2^doublings bins one, in place.
void coarsen(std::vector<uint64_t>& counts, int doublings) {
  for (size_t i = 1; i < counts.size(); ++i) counts[i >> doublings] += std::exchange(counts[i], 0);
}

}  // namespace

double ValueHistogram::width() const { return std::ldexp(1.0, exponent_ - log2_bins); }

void ValueHistogram::reach(int exponent) {
  if (exponent <= exponent_) return;
  const int doublings = std::min(exponent - exponent_, log2_bins);
  coarsen(above_, doublings);
  coarsen(below_, doublings);
  exponent_ = exponent;
}

void ValueHistogram::add(std::span<const float> values, double largest) {
  if (largest > 0) reach(std::ilogb(largest) + 1);
  const auto per_width = static_cast<float>(1 / width());  // a power of two: the products are exact
  for (float x : values) {
    const auto bin = static_cast<size_t>(std::abs(x) * per_width);
    ++(x < 0 ? below_ : above_)[bin];
  }
}

void ValueHistogram::merge(const ValueHistogram& other) {
  reach(other.exponent_);
  const int doublings = std::min(exponent_ - other.exponent_, log2_bins);
  for (size_t i = 0; i < above_.size(); ++i) {
    above_[i >> doublings] += other.above_[i];
    below_[i >> doublings] += other.below_[i];
  }
}

std::vector<uint64_t> ValueHistogram::magnitudes() const {
  std::vector<uint64_t> counts = above_;
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += below_[i];
  return counts;
}

}  // namespace llmc
