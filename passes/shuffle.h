// Owns the order in which training sees its samples.
#pragma once

#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "core/random.h"

namespace llmc {

/// Indices in random order, every one once before any comes again.
class Shuffle {
 public:
  /// `name` is that of the random stream.
  Shuffle(size_t count, uint64_t seed, const std::string& name) : random_(seed, name), order_(count), next_(count) { std::iota(order_.begin(), order_.end(), size_t{0}); }

  size_t next() {
    if (next_ == order_.size()) {
      for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random_.below(i)]);
      next_ = 0;
    }
    return order_[next_++];
  }

 private:
  Random random_;
  std::vector<size_t> order_;
  size_t next_;
};

}  // namespace llmc
