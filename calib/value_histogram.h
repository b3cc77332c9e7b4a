// Owns histograms of values around zero that grow with their largest value and lose nothing of their counts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace llmc {

/// Equal bins on both sides of zero. Their width is a power of two, the least for which `bins` of them reach past the
/// largest value; when it doubles, pairs of bins become one, which is where their values would have been counted at once.
/// So the histogram follows from the values alone, not from their order or how they were split up.
class ValueHistogram {
 public:
  static constexpr int64_t bins = 1 << 14;  ///< a side; of them at least half reach up to the largest value

  /// `largest` is the greatest |value|; values are finite.
  void add(std::span<const float> values, double largest);
  void merge(const ValueHistogram& other);

  double width() const;
  /// Counts of [i · width, (i + 1) · width), zeros in the first.
  const std::vector<uint64_t>& above_zero() const { return above_; }
  /// Counts of (−(i + 1) · width, −i · width], without zeros.
  const std::vector<uint64_t>& below_zero() const { return below_; }
  /// Counts of i · width ≤ |x| < (i + 1) · width.
  std::vector<uint64_t> magnitudes() const;

 private:
  void reach(int exponent);

  static constexpr int lowest_exponent = -100;  ///< so that 1 / width is a normal float; smaller values count as about 0
  int exponent_ = lowest_exponent;              ///< all |values| are below 2^exponent
  std::vector<uint64_t> above_ = std::vector<uint64_t>(bins);
  std::vector<uint64_t> below_ = std::vector<uint64_t>(bins);
};

}  // namespace llmc
