// Owns the min-max observer: the range of all values seen.
#include "calib/observers/list.h"

namespace llmc {

namespace {

class MinMax final : public Observer {
 public:
  using Observer::Observer;

 private:
  void take(int64_t, std::span<const float>, const Extent&) override {}
  void absorb(const Observer&) override {}
  Range choose(const RangeTarget&) const override { return {extent().low, extent().high}; }
};

}  // namespace

std::unique_ptr<Observer> make_min_max(const ObserverOptions& options) { return std::make_unique<MinMax>(options.where); }

}  // namespace llmc
