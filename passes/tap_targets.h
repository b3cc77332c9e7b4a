// Owns which weights are due at which tap of a sweep.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "model/model.h"
#include "model/tap.h"

namespace llmc {

/// `Target` has a member `placed`. Weights that read no tap (embedding, head) are not listed.
template <typename Target>
class TapTargets {
 public:
  explicit TapTargets(const std::vector<Target>& list) {
    for (const Target& target : list)
      if (const auto tap = find_tap(target.placed->row->role)) by_tap_[{target.placed->block, *tap}].push_back(target);
  }
  /// nullptr when none is due.
  const std::vector<Target>* find(int64_t block, Tap tap) const {
    const auto due = by_tap_.find({block, tap});
    return due == by_tap_.end() ? nullptr : &due->second;
  }

 private:
  std::map<std::pair<int64_t, Tap>, std::vector<Target>> by_tap_;
};

}  // namespace llmc
