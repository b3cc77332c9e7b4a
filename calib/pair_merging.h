// Owns the merging of a word's symbols, the loop of byte pair encoding (Sennrich 2016, algorithm 1).
#pragma once

#include <cstdint>
#include <vector>

#include "calib/merge_table.h"

namespace llmc {

/// Merges neighbours, the lowest rank first and the leftmost of equals, until no merge is left; O(n log n). `symbols` are
/// the ids of one word, fewer than 2³¹; what they become is appended to `ids`.
void merge_pairs(const std::vector<int32_t>& symbols, const MergeTable& merges, std::vector<int32_t>& ids);

}  // namespace llmc
