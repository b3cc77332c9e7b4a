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
      if (const auto tap = find_tap(target.placed->row->role)) by_tap_[{target.placed->block, *tap}][find_part(target.placed->row->role, target.placed->expert)].push_back(target);
  }
  /// Whether any is due at the tap, in whichever part of it.
  bool has(int64_t block, Tap tap) const { return by_tap_.contains({block, tap}); }
  /// Those that read a part of the tap (TapPart::number); nullptr when none is due.
  const std::vector<Target>* find(int64_t block, Tap tap, int64_t part) const {
    const auto at_tap = by_tap_.find({block, tap});
    if (at_tap == by_tap_.end()) return nullptr;
    const auto due = at_tap->second.find(part);
    return due == at_tap->second.end() ? nullptr : &due->second;
  }

 private:
  std::map<std::pair<int64_t, Tap>, std::map<int64_t, std::vector<Target>>> by_tap_;
};

}  // namespace llmc
