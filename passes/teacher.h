// Owns what teachers say of the samples that a model is trained on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "calib/activation_store.h"
#include "model/backward.h"
#include "model/head_loss.h"
#include "passes/pass.h"

namespace llmc {

/// Some samples in the rows of one matrix.
struct Batch {
  Batch(const Sequences& samples, std::vector<size_t> chosen_samples);

  std::vector<size_t> chosen;    ///< by their place among the samples
  SequenceRows rows;
  std::vector<int32_t> tokens;   ///< by row; −1 between samples
  std::vector<int32_t> labels;   ///< the next token; −1 at a sample's end and between samples
};

class Teacher {
 public:
  virtual ~Teacher() = default;
  virtual int64_t vocabulary() const = 0;
  virtual Targets kind() const { return Targets::logits; }
  /// What it says of a batch, until it is asked for the next.
  virtual TrainableHead::Teacher look_at(const Batch& batch) = 0;
  /// Its hidden states [rows, width] of that batch, after the numbers of blocks that it was told to keep.
  virtual std::span<const Matrix> hidden_states() const { return {}; }
  /// What its attention compared in that batch, in the blocks that it was told to keep.
  virtual std::span<const AttentionTarget> attention() const { return {}; }
};

/// When a model that teaches runs its blocks over the samples.
enum class TeacherRuns {
  once,            ///< over all samples in the beginning; their last hidden states are kept
  with_each_batch  ///< which takes its time in each epoch, and no memory
};

/// A model that teaches with all its logits, which its head makes of hidden states when they are asked for.
class TeacherModel final : public Teacher {
 public:
  /// Borrows samples and context.
  TeacherModel(Model model, TeacherRuns runs, const Sequences& samples, const PassContext& context);

  int64_t vocabulary() const override { return model_.config().vocabulary; }
  const ModelConfig& config() const { return model_.config(); }
  /// Keeps the states after these numbers of blocks, of every batch that it runs with (TeacherRuns::with_each_batch).
  void keep_hidden(std::vector<int64_t> after_blocks) { kept_blocks_ = std::move(after_blocks); }
  /// Keeps queries and keys of these blocks, likewise.
  void keep_attention(std::vector<int64_t> blocks);
  TrainableHead::Teacher look_at(const Batch& batch) override;
  std::span<const Matrix> hidden_states() const override { return states_; }
  std::span<const AttentionTarget> attention() const override { return attention_; }

 private:
  /// Hidden states after the last block; told(blocks, next, i, states) has those of the i-th sample after so many blocks, from none to
  /// all, and the weights of the block that is next, if there is one; from several threads.
  using Told = std::function<void(int64_t blocks, const BlockWeights* next, size_t i, const Matrix& states)>;
  ActivationStore run(std::span<const size_t> chosen, const Told& told) const;

  Model model_;
  const Sequences& samples_;
  const PassContext& context_;
  Forward forward_;
  TrainableHead head_;
  std::optional<ActivationStore> kept_;
  Matrix hidden_;  ///< of the batch, by its rows
  std::vector<int64_t> kept_blocks_;
  std::vector<Matrix> states_;  ///< after kept_blocks_, by the batch's rows

  /// Of a block, by the batch's rows.
  struct KeptAttention {
    int64_t block;
    ModelConfig config;
    Matrix q, k;
  };
  std::vector<KeptAttention> kept_attention_;
  std::vector<AttentionTarget> attention_;  ///< views of it
};

}  // namespace llmc
