// Owns the table that byte pair encoding asks for every pair of neighbours: a flat hash of 64-bit keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace llmc {

/// What a pair of ids merges into, and how early: lower ranks merge first.
struct Merge {
  uint32_t rank = 0;
  int32_t id = -1;
};

class MergeTable {
 public:
  /// Makes room for `count` pairs; no more may be set.
  explicit MergeTable(size_t count) {
    size_t slots = 16;
    while (slots < 2 * count) slots *= 2;
    slots_.resize(slots);
  }

  /// A pair that is set again takes the new value.
  void set(int32_t left, int32_t right, Merge merge) { slots_[slot_of(key_of(left, right))] = {key_of(left, right), merge}; }
  const Merge* find(int32_t left, int32_t right) const {
    const Slot& slot = slots_[slot_of(key_of(left, right))];
    return slot.key == no_key ? nullptr : &slot.merge;
  }

 private:
  static constexpr uint64_t no_key = UINT64_MAX;  // no pair of ids, which are not negative
  struct Slot {
    uint64_t key = no_key;
    Merge merge;
  };

  static uint64_t key_of(int32_t left, int32_t right) { return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right); }
  /// Where the key is, or the free slot where it would go. At least half of the slots are free.
  size_t slot_of(uint64_t key) const {
    const uint64_t mixed = key * 0x9E3779B97F4A7C15u;  // Knuth's multiplicative hash, 2⁶⁴ / golden ratio
    size_t at = (mixed ^ mixed >> 32) & (slots_.size() - 1);
    while (slots_[at].key != no_key && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<Slot> slots_;
};

}  // namespace llmc
