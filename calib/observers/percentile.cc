// Owns the percentile observer: the range that holds a share of the values, to the width of a bin.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "calib/observers/histogram_observer.h"
#include "calib/observers/list.h"

namespace llmc {

namespace {

class Percentile final : public HistogramObserver {
 public:
  explicit Percentile(const ObserverOptions& options) : HistogramObserver(options.where), share_(options.percentile / 100) {}

 private:
  Range choose(const RangeTarget& target) const override {
    const double width = histogram().width();
    if (target.mapping == Mapping::symmetric) {
      const double edge = width * static_cast<double>(bins_needed(histogram().magnitudes()));
      return {0, std::min(edge, extent().magnitude())};
    }
    // All bins from the lowest to the highest value; bin i of `line` starts at (i − bins) · width.
    std::vector<uint64_t> line(histogram().below_zero().rbegin(), histogram().below_zero().rend());
    line.insert(line.end(), histogram().above_zero().begin(), histogram().above_zero().end());
    const double high = width * static_cast<double>(bins_needed(line) - ValueHistogram::bins);
    std::ranges::reverse(line);
    const double low = -width * static_cast<double>(bins_needed(line) - ValueHistogram::bins);
    return {std::max(low, static_cast<double>(extent().low)), std::min(high, static_cast<double>(extent().high))};
  }

  /// How many of the first bins hold the share of all values.
  int64_t bins_needed(const std::vector<uint64_t>& counts) const {
    const uint64_t total = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
    const auto wanted = static_cast<uint64_t>(std::ceil(share_ * static_cast<double>(total)));
    uint64_t seen = 0;
    size_t bin = 0;
    while (seen < wanted) seen += counts[bin++];
    return static_cast<int64_t>(bin);
  }

  double share_;
};

}  // namespace

std::unique_ptr<Observer> make_percentile(const ObserverOptions& options) { return std::make_unique<Percentile>(options); }

}  // namespace llmc
