#include "calib/observer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "calib/observers/list.h"
#include "core/error.h"

namespace llmc {

double Observer::Extent::magnitude() const { return std::max(std::abs(static_cast<double>(low)), std::abs(static_cast<double>(high))); }

void Observer::Extent::widen(const Extent& other) {
  low = std::min(low, other.low);
  high = std::max(high, other.high);
}

void Observer::add(int64_t sequence, std::span<const float> values) {
  if (values.empty()) return;
  Extent extent{values[0], values[0]};
  bool is_finite = true;
  for (float x : values) {
    constexpr uint32_t exponent = 0x7f800000;  // all ones: an infinity or no number
    is_finite &= (std::bit_cast<uint32_t>(x) & exponent) != exponent;
    extent.low = std::min(extent.low, x);
    extent.high = std::max(extent.high, x);
  }
  if (!is_finite) throw Error(ErrorKind::input, fmt::format("{}: sequence {}: a value is not finite", where_, sequence));
  if (is_empty_) extent_ = extent;
  else extent_.widen(extent);
  is_empty_ = false;
  take(sequence, values, extent);
}

void Observer::merge(const Observer& other) {
  if (other.is_empty_) return;
  if (is_empty_) extent_ = other.extent_;
  else extent_.widen(other.extent_);
  is_empty_ = false;
  absorb(other);
}

Range Observer::range(const RangeTarget& target) const {
  if (is_empty_) throw Error(ErrorKind::input, where_ + ": no calibration sample reached it, so its range is not known");
  if (extent_.magnitude() == 0) return {};
  const Range chosen = choose(target);
  if (target.mapping == Mapping::linear) return {std::min(chosen.low, 0.0), std::max(chosen.high, 0.0)};
  const double widest = std::max(std::abs(chosen.low), std::abs(chosen.high));
  return {-widest, widest};
}

std::span<const ObserverInfo> observer_list() {
  static constexpr std::array list = {
      ObserverInfo{"minmax", "the smallest range that holds every value", make_min_max},
      ObserverInfo{"moving-average", "each sequence's extremes, averaged in order, later ones counting little", make_moving_average},
      ObserverInfo{"percentile", "leaves out the share of values past a percentile", make_percentile},
      ObserverInfo{"mse", "the shrunk range with the least squared error", make_mse},
      ObserverInfo{"entropy", "the clip that keeps most of the distribution (least KL divergence)", make_entropy},
  };
  return list;
}

const ObserverInfo& get_observer(const std::string& name) {
  std::vector<std::string> names;
  for (const ObserverInfo& info : observer_list()) {
    if (name == info.name) return info;
    names.push_back(info.name);
  }
  throw Error(ErrorKind::usage, fmt::format("observer '{}' is not known; expected one of {}", name, fmt::join(names, ", ")));
}

std::unique_ptr<Observer> make_observer(const std::string& name, const ObserverOptions& options) {
  if (!(options.percentile > 50 && options.percentile <= 100)) throw Error(ErrorKind::usage, fmt::format("percentile: expected more than 50 and at most 100, found {}", options.percentile));
  if (!(options.averaging > 0 && options.averaging <= 1)) throw Error(ErrorKind::usage, fmt::format("averaging: expected more than 0 and at most 1, found {}", options.averaging));
  return get_observer(name).make(options);
}

}  // namespace llmc
