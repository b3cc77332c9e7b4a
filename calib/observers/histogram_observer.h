// Owns what the observers that look at the distribution share: its histogram.
#pragma once

#include "calib/observer.h"
#include "calib/value_histogram.h"

namespace llmc {

class HistogramObserver : public Observer {
 public:
  using Observer::Observer;

 protected:
  const ValueHistogram& histogram() const { return histogram_; }

 private:
  void take(int64_t, std::span<const float> values, const Extent& extent) final { histogram_.add(values, extent.magnitude()); }
  void absorb(const Observer& other) final { histogram_.merge(dynamic_cast<const HistogramObserver&>(other).histogram_); }

  ValueHistogram histogram_;
};

}  // namespace llmc
