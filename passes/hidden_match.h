// Owns the loss that compares a student's hidden states with a teacher's: which with which, and the projection between their widths.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "model/trainable_model.h"
#include "passes/learned_floats.h"
#include "passes/teacher.h"

namespace llmc {

/// After how many of the teacher's blocks its states are what each block of the student should give. `origins`: which of the teacher's
/// blocks the student's blocks are, ascending; each should then lead to where the next one starts. Where they are none of them (any
/// is negative), evenly spread (Jiao 2020, TinyBERT).
std::vector<int64_t> pair_blocks(std::span<const int64_t> origins, int64_t teacher_blocks);
/// Which of the teacher's blocks should attend as each block of the student does: the one that it is, or the last one of its share.
std::vector<int64_t> pair_attention(std::span<const int64_t> origins, int64_t teacher_blocks);

/// The mean, over pairs, of E‖P h − t‖² / E‖t‖² over the tokens of a batch: h the student's states after a block, t those of the teacher
/// where pair_blocks says. P is the identity, or where widths differ a matrix for each pair that is learned beside the student
/// (Romero 2015, FitNets), at first random by `seed`.
class HiddenMatch {
 public:
  HiddenMatch(std::vector<int64_t> pairs, int64_t student_width, int64_t teacher_width, uint64_t seed);

  const std::vector<int64_t>& pairs() const { return pairs_; }
  /// The loss of a batch times `weight`, as what backpropagate takes; borrows the batch and what the teacher says of it, in which states
  /// [rows, width] come in the order of pairs().
  TrainableModel::HiddenLoss compare(const Batch& batch, std::span<const Matrix> teacher_states, double weight);
  /// Without weight, of the last batch.
  double loss() const { return loss_; }

  /// A projection and the gradient that it has so far.
  struct Projection {
    std::unique_ptr<StoredTensor> tensor;
    LearnedFloats values;
    Matrix gradient;  ///< [teacher width, student width]
  };
  /// None where widths are the same.
  std::deque<Projection>& projections() { return projections_; }

 private:
  void add(size_t pair, const Batch& batch, const Matrix& wanted, double weight, ConstMatrixView hidden, MatrixView d_hidden);

  std::vector<int64_t> pairs_;
  std::deque<Projection> projections_;
  double loss_ = 0;
};

}  // namespace llmc
