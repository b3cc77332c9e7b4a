// Owns masks: which weights of a matrix become zero, chosen from scores under a pattern and a budget. What makes scores is
// not its business.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "passes/sparsity_pattern.h"

namespace llmc {

struct Mask {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<uint8_t> gone;  ///< [rows, cols]: 1 where the weight becomes 0

  const uint8_t* row(int64_t r) const { return gone.data() + r * cols; }
  uint8_t* row(int64_t r) { return gone.data() + r * cols; }
  int64_t zeros() const;
};
/// The zeros that a matrix has.
Mask find_zeros(ConstMatrixView values);
/// Sets what is gone to +0. Returns how many weights were not 0 before.
int64_t apply(const Mask& mask, MatrixView values);

/// What is ranked against each other. With N:M it is always the weights of a group.
enum class RankScope { tensor, row, global };
std::string_view to_string(RankScope scope);
/// "tensor", "row", "global". Throws Error(usage) naming `where`.
RankScope parse_rank_scope(std::string_view text, const std::string& where);

/// Units of a matrix that are ranked against each other: weights or blocks of the whole of it, or of a row (of blocks).
int64_t ranked_units(const SparsityPattern& pattern, RankScope scope, int64_t rows, int64_t cols);
/// The nearest whole number to that share.
int64_t share_of(double sparsity, int64_t units);
/// Zeros of the mask that choose_mask makes of a matrix when that share of the ranked units goes.
int64_t planned_zeros(const SparsityPattern& pattern, RankScope scope, double sparsity, int64_t rows, int64_t cols);

/// The units with the lowest scores go, of equal ones the first: `gone` of those ranked together, for N:M all but N of every
/// M. `scores` [rows, cols] are finite; their signs are ignored. A block's score is the root of the sum of their squares. The
/// scope is tensor or row (global is the business of GlobalRanking).
Mask choose_mask(ConstMatrixView scores, const SparsityPattern& pattern, RankScope scope, int64_t gone);

/// Ranks the units of many matrices together without holding them: count() the scores of all in one pass, refine(), count()
/// all again, refine(); then choose() for each in the same order.
class GlobalRanking {
 public:
  /// `gone`: how many units go in all.
  GlobalRanking(const SparsityPattern& pattern, int64_t gone) : pattern_(pattern), gone_(gone) {}
  void count(ConstMatrixView scores);
  void refine();
  Mask choose(ConstMatrixView scores);

 private:
  SparsityPattern pattern_;
  std::vector<int64_t> histogram_ = std::vector<int64_t>(size_t{1} << 16);
  int64_t gone_ = 0;     ///< still to be found in the bins not yet decided
  uint32_t prefix_ = 0;  ///< upper half of the threshold's bits, then all of them
  int pass_ = 0;
};

}  // namespace llmc
