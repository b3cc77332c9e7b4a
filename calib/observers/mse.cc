// Owns the MSE observer: the shrunk range whose grid has the least squared error over the histogram.
#include <algorithm>
#include <cmath>
#include <vector>

#include "calib/observers/histogram_observer.h"
#include "calib/observers/list.h"

namespace llmc {

namespace {

struct WeightedValue {
  double value = 0;
  double count = 0;
};

/// Σ count · (x − grid(x))², the grid as round-to-nearest makes it for the range.
double squared_error(const std::vector<WeightedValue>& values, const Range& range, const RangeTarget& target) {
  const double lowest = -std::ldexp(1.0, target.bits - 1), highest = -lowest - 1;
  const bool is_symmetric = target.mapping == Mapping::symmetric;
  const double scale = is_symmetric ? range.high / highest : (range.high - range.low) / (highest - lowest);
  const double zero = is_symmetric ? 0 : std::clamp(std::nearbyint(lowest - range.low / scale), lowest, highest);
  double sum = 0;
  for (const WeightedValue& entry : values) {
    const double code = std::clamp(std::nearbyint(entry.value / scale) + zero, lowest, highest);
    const double error = entry.value - (code - zero) * scale;
    sum += entry.count * error * error;
  }
  return sum;
}

class Mse final : public HistogramObserver {
 public:
  using HistogramObserver::HistogramObserver;

 private:
  Range choose(const RangeTarget& target) const override {
    const std::vector<WeightedValue> values = middles();
    const bool is_symmetric = target.mapping == Mapping::symmetric;
    const double magnitude = extent().magnitude();
    Range best = is_symmetric ? Range{-magnitude, magnitude} : Range{std::min<double>(extent().low, 0), std::max<double>(extent().high, 0)};
    double best_error = squared_error(values, best, target);
    /// Shrinks one or both ends by 2^(−1/16) at a time, down to 2^−8: an outlier may be that far out.
    const auto search = [&](auto shrink) {
      const Range from = best;
      for (int step = 1; step <= 128; ++step) {
        const Range range = shrink(from, std::exp2(-step / 16.0));
        const double error = squared_error(values, range, target);
        if (error < best_error) best = range, best_error = error;
      }
    };
    search([](const Range& range, double share) { return Range{range.low * share, range.high * share}; });
    if (is_symmetric || best.low == 0 || best.high == 0) return best;
    search([](const Range& range, double share) { return Range{range.low, range.high * share}; });
    search([](const Range& range, double share) { return Range{range.low * share, range.high}; });
    return best;
  }

  /// The bins that hold something, each as its middle; the first, where the zeros are, as 0.
  std::vector<WeightedValue> middles() const {
    std::vector<WeightedValue> values;
    const auto add = [&](const std::vector<uint64_t>& counts, double width) {
      for (size_t i = 0; i < counts.size(); ++i)
        if (counts[i] > 0) values.push_back({i == 0 ? 0 : (static_cast<double>(i) + 0.5) * width, static_cast<double>(counts[i])});
    };
    add(histogram().below_zero(), -histogram().width());
    add(histogram().above_zero(), histogram().width());
    return values;
  }
};

}  // namespace

std::unique_ptr<Observer> make_mse(const ObserverOptions& options) { return std::make_unique<Mse>(options.where); }

}  // namespace llmc
