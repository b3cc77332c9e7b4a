// Owns the training loop that healing and distillation share: batches in a seeded order, losses, progress.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "model/trainable_model.h"
#include "passes/hidden_match.h"
#include "passes/teacher.h"

namespace llmc {

struct TrainingPlan {
  std::string name;        ///< of the stage
  std::string order;       ///< of the random stream that orders the samples
  int64_t first_step = 0;  ///< those before it were done in an earlier run
  int64_t steps = 0;
  int64_t batch = 1;       ///< samples that go through the model at once
  int64_t accumulate = 1;  ///< such batches in a step
  LossWeights loss;
  HiddenMatch* hidden = nullptr;  ///< what loss.hidden weighs, if it is not 0
  /// Called between two steps, the only place where training stops, with the number of steps done; none: stops if the user asked for it.
  std::function<void(int64_t done)> after_step = nullptr;
};

/// What changes the weights while they are trained. Gradients come to it batch by batch: the sum over the batches of a step is
/// `accumulate` times their mean.
class Learner : public GradientReader {
 public:
  virtual void begin_step(int64_t step) = 0;
  /// `losses`: the mean over the step's batches.
  virtual void end_step(int64_t step, const HeadLosses& losses) = 0;
};

/// Trains. The same bits for the same seed and any number of threads. Throws Error(input) when a loss is no number.
void train(TrainableModel& model, Learner& learner, Teacher& teacher, const Sequences& samples, const TrainingPlan& plan, const PassContext& context);

}  // namespace llmc
