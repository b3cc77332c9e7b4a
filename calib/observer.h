// Owns observers: statistics of a stream of values, from which the range of its grid follows.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "formats/scheme.h"

namespace llmc {

/// What a grid covers; values outside are clipped.
struct Range {
  double low = 0;
  double high = 0;
};

/// The grid that a range is for.
struct RangeTarget {
  Mapping mapping = Mapping::symmetric;
  int bits = 8;
};

struct ObserverOptions {
  std::string where;          ///< the stream's name, for errors: "input of model.layers.0.mlp.down_proj"
  double percentile = 99.99;  ///< for percentile: share inside the range; of |x| if symmetric, of each tail if linear
  double averaging = 0.01;    ///< for moving-average: weight of a new sequence, as in PyTorch and compressed-tensors
};

/// Sees values in any order and in any number of parts that are merged: the range is the same bits, because what is kept
/// are extremes and whole counts.
class Observer {
 public:
  explicit Observer(std::string where) : where_(std::move(where)) {}
  virtual ~Observer() = default;

  /// `sequence` numbers the calibration sample that the values belong to. Throws Error(input) for a value that is not finite.
  void add(int64_t sequence, std::span<const float> values);
  /// Takes in what another one of the same kind has seen.
  void merge(const Observer& other);
  /// Symmetric: [-a, a]. Linear: holds 0. Zeros only: [0, 0]. Throws Error(input) when no value was seen.
  Range range(const RangeTarget& target) const;

 protected:
  struct Extent {
    float low = 0;
    float high = 0;
    double magnitude() const;
    void widen(const Extent& other);
  };
  /// Of all values seen; there is one at least.
  const Extent& extent() const { return extent_; }

 private:
  virtual void take(int64_t sequence, std::span<const float> values, const Extent& extent) = 0;
  virtual void absorb(const Observer& other) = 0;
  virtual Range choose(const RangeTarget& target) const = 0;

  std::string where_;
  Extent extent_;
  bool is_empty_ = true;
};

/// One row per observer.
struct ObserverInfo {
  const char* name;
  const char* summary;
  std::unique_ptr<Observer> (*make)(const ObserverOptions& options);
};
std::span<const ObserverInfo> observer_list();
/// Throws Error(usage) that lists the known ones, and for options outside their range.
const ObserverInfo& get_observer(const std::string& name);
std::unique_ptr<Observer> make_observer(const std::string& name, const ObserverOptions& options);

}  // namespace llmc
