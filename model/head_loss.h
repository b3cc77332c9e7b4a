// Owns the end of the backward pass: final norm, output head, and the losses that compare a student's tokens with a teacher's.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "core/tensor.h"
#include "model/backward.h"
#include "model/block_tensors.h"
#include "model/config.h"
#include "model/linear.h"

namespace llmc {

/// What a teacher writes for a position.
enum class Targets {
  logits,  ///< one for each token
  top,     ///< logarithms of the probabilities at the temperature, of the tokens that it names; −∞ for the others, among which what
           ///< is left of 1 counts as one token (so its divergence is that of the named tokens and the rest)
};

/// kl · T² · KL(teacher(T) ‖ student(T)) + cross_entropy · CE(labels), the means over positions and over those with a label
/// (Hinton 2015), and what training adds for hidden states and attention.
struct LossWeights {
  double kl = 1;
  double temperature = 1;
  double cross_entropy = 0;
  double hidden = 0;     ///< of HiddenMatch, not the head's business
  double attention = 0;  ///< of TrainableModel, neither
  Targets targets = Targets::logits;
};

/// Means in nats, without weights; 0 for what has no weight.
struct HeadLosses {
  double kl = 0;
  double cross_entropy = 0;
  double hidden = 0;     ///< a share of the teacher's states, not in nats
  double attention = 0;  ///< mean over positions, heads and blocks of KL(teacher's attention ‖ student's)

  double total(const LossWeights& weights) const { return weights.kl * weights.temperature * weights.temperature * kl + weights.cross_entropy * cross_entropy + weights.hidden * hidden + weights.attention * attention; }
};

/// A term of the loss: its name in reports, what it weighs and how large it is.
struct LossTerm {
  const char* name;
  double LossWeights::* weight;
  double HeadLosses::* loss;
};
inline constexpr std::array loss_terms = {
    LossTerm{"kl", &LossWeights::kl, &HeadLosses::kl},
    LossTerm{"cross_entropy", &LossWeights::cross_entropy, &HeadLosses::cross_entropy},
    LossTerm{"hidden", &LossWeights::hidden, &HeadLosses::hidden},
    LossTerm{"attention", &LossWeights::attention, &HeadLosses::attention},
};

/// Final norm and output head with weights that change. Results are the same bits for any number of threads.
class TrainableHead {
 public:
  TrainableHead(const ModelConfig& config, Precision precision, MatmulBackend backend);
  ~TrainableHead();
  TrainableHead(TrainableHead&&) noexcept;

  /// Role::final_norm and Role::output_head, those of them that change.
  void set(const BlockTensors& values);

  /// Logits [rows, vocabulary] of hidden states after the last block, on this thread when there are few rows.
  void run(ConstMatrixView hidden, MatrixView logits) const;

  /// Writes the targets of the rows from `first` on.
  using Teacher = std::function<void(int64_t first, MatrixView logits)>;

  /// Writes the gradient of the weighted loss to d_hidden (zero in the rows between sequences) and adds those of the
  /// tensors that `gradients` holds. `labels`, one for each row, are read where cross_entropy counts; a negative one, and
  /// rows between sequences, count for nothing. `teacher` is called from several threads, where kl counts. The logits of
  /// one tile of rows are all that is kept, unless the gradient of the head's weight is asked for.
  HeadLosses backpropagate(const SequenceRows& sequences, ConstMatrixView hidden, const LossWeights& weights, const Teacher& teacher, std::span<const int32_t> labels, MatrixView d_hidden, BlockTensors& gradients) const;

 private:
  struct Weights;
  std::unique_ptr<Weights> weights_;
};

}  // namespace llmc
