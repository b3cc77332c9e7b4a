// Owns the entropy observer: the clip of |x| after which the rounded distribution diverges least from the original
// (S. Migacz, "8-bit Inference with TensorRT", 2017).
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "calib/observers/histogram_observer.h"
#include "calib/observers/list.h"

namespace llmc {

namespace {

constexpr size_t entropy_bins = 2048;       // Migacz's number
constexpr double count_of_nothing = 1e-4;   // as MXNet smooths empty bins: clipping a lone outlier costs a finite amount

/// KL(P ‖ Q) where P are the first `size` counts with all beyond added to the last, and Q the first `size` counts merged
/// into `levels` equal parts and spread again over the bins that hold something. Infinite when everything is beyond.
double divergence(const std::vector<double>& counts, size_t size, size_t levels) {
  const double inside = std::accumulate(counts.begin(), counts.begin() + static_cast<std::ptrdiff_t>(size), 0.0);
  const double outside = std::accumulate(counts.begin() + static_cast<std::ptrdiff_t>(size), counts.end(), 0.0);
  if (inside == 0) return std::numeric_limits<double>::infinity();
  double sum = 0;
  for (size_t level = 0; level < levels; ++level) {
    const size_t first = (level * size + levels - 1) / levels, last = ((level + 1) * size + levels - 1) / levels;
    double merged = 0;
    int filled = 0;
    for (size_t i = first; i < last; ++i) merged += counts[i], filled += counts[i] > 0;
    for (size_t i = first; i < last; ++i) {
      const double p = (counts[i] + (i + 1 == size ? outside : 0)) / (inside + outside);
      if (p == 0) continue;
      const double q = (counts[i] > 0 ? merged / filled : count_of_nothing) / inside;
      sum += p * std::log(p / q);
    }
  }
  return sum;
}

class Entropy final : public HistogramObserver {
 public:
  using HistogramObserver::HistogramObserver;

 private:
  /// The clip applies to both ends; a linear range stays inside the extremes.
  Range choose(const RangeTarget& target) const override {
    const double clip = std::min(best_clip(size_t{1} << (target.bits - 1)), extent().magnitude());
    if (target.mapping == Mapping::symmetric) return {-clip, clip};
    return {std::max(-clip, static_cast<double>(extent().low)), std::min(clip, static_cast<double>(extent().high))};
  }

  double best_clip(size_t levels) const {
    constexpr size_t merged = ValueHistogram::bins / entropy_bins;
    const std::vector<uint64_t> fine = histogram().magnitudes();
    std::vector<double> counts(entropy_bins);
    for (size_t i = 0; i < fine.size(); ++i) counts[i / merged] += static_cast<double>(fine[i]);
    while (counts.back() == 0) counts.pop_back();

    size_t best = counts.size();
    double least = std::numeric_limits<double>::infinity();
    for (size_t size = levels; size <= counts.size(); ++size)
      if (const double found = divergence(counts, size, levels); found < least) best = size, least = found;
    return (static_cast<double>(best) + 0.5) * histogram().width() * static_cast<double>(merged);
  }
};

}  // namespace

std::unique_ptr<Observer> make_entropy(const ObserverOptions& options) { return std::make_unique<Entropy>(options.where); }

}  // namespace llmc
