// Owns the moving-average observer: extremes per sequence, averaged exponentially in the order of the sequences' numbers.
#include <map>

#include "calib/observers/list.h"

namespace llmc {

namespace {

class MovingAverage final : public Observer {
 public:
  explicit MovingAverage(const ObserverOptions& options) : Observer(options.where), averaging_(options.averaging) {}

 private:
  void take(int64_t sequence, std::span<const float>, const Extent& extent) override {
    const auto [entry, is_new] = extents_.emplace(sequence, extent);
    if (!is_new) entry->second.widen(extent);
  }
  void absorb(const Observer& other) override {
    for (const auto& [sequence, extent] : dynamic_cast<const MovingAverage&>(other).extents_) take(sequence, {}, extent);
  }
  /// Averaged only here, so that neither the order of calls nor the cut between observers matters.
  Range choose(const RangeTarget&) const override {
    Range average{extents_.begin()->second.low, extents_.begin()->second.high};
    for (const auto& [sequence, extent] : extents_) {
      average.low += averaging_ * (extent.low - average.low);
      average.high += averaging_ * (extent.high - average.high);
    }
    return average;
  }

  double averaging_;
  std::map<int64_t, Extent> extents_;
};

}  // namespace

std::unique_ptr<Observer> make_moving_average(const ObserverOptions& options) { return std::make_unique<MovingAverage>(options); }

}  // namespace llmc
