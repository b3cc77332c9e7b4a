// Owns a whole model of floats while it is trained: masters of every weight in f32, gradients of a step, the optimizer's state.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "model/model.h"
#include "passes/learned_floats.h"
#include "passes/training.h"

namespace llmc {

struct WeightLearning {
  Optimizer optimizer = Optimizer::adamw;
  AdamDecay decay = {.epsilon = 1e-8f};  ///< as PyTorch's
  double rate = 5e-4;
  double weight_decay = 0;               ///< of matrices; norms and biases do not shrink
  double clip = 1;                       ///< the longest gradient of a step, over all weights; 0: any
  Schedule schedule = Schedule::cosine;
  int64_t accumulate = 1;
};

/// Values run as their dtype rounds them, and gradients pass straight through. What pruning set to zero stays so.
class WeightLearner final : public Learner {
 public:
  /// Starts at the model's values, which it hands to `trainable`. Both are borrowed. The model holds floats only.
  WeightLearner(Model& model, TrainableModel& trainable, const WeightLearning& learning);

  /// How long the schedule is.
  void set_schedule(int64_t warmup, int64_t steps) { warmup_ = warmup, steps_ = steps; }

  void begin_step(int64_t /*step*/) override {}
  BlockTensors prepare(int64_t block) override;
  void take(int64_t block, BlockTensors gradients) override;
  void end_step(int64_t step, const HeadLosses& losses) override;

  /// Of every step so far.
  const std::vector<HeadLosses>& losses() const { return losses_; }
  /// Of the last step, before it was clipped.
  double gradient_norm() const { return gradient_norm_; }

  /// Puts what was learned into the model.
  void finish();

  /// All that later steps depend on, as one file that is whole or not there. Throws Error(output).
  void save(const std::filesystem::path& file);
  /// Takes up what was saved with the same `signature`, and says how many steps were done. Throws Error(input), Error(usage) for
  /// another one.
  int64_t restore(const std::filesystem::path& file);
  /// Something that learns beside the model, with its steps: what it is called, its values and the gradient it is given for a step.
  void add_companion(const std::string& name, LearnedFloats& values, Matrix& gradient) { companions_.push_back({name, &values, &gradient}); }
  /// Goes into what is saved: says what the training depends on.
  void set_signature(std::string signature) { signature_ = std::move(signature); }
  /// Of the schedule.
  int64_t steps() const { return steps_; }

 private:
  struct Weight {
    const PlacedTensor* placed = nullptr;
    LearnedFloats values;
    Matrix gradient;  ///< the sum so far of a step
  };
  struct Companion {
    std::string name;
    LearnedFloats* values = nullptr;
    Matrix* gradient = nullptr;
  };
  void hand_on(int64_t block);
  /// Calls body(name, values, gradient, weight decay) for everything that learns.
  template <typename Body>
  void for_each(const Body& body);

  TrainableModel& trainable_;
  WeightLearning learning_;
  std::map<int64_t, std::vector<Weight>> by_block_;
  std::vector<Companion> companions_;
  int64_t warmup_ = 0, steps_ = 0;
  std::string signature_;
  std::vector<HeadLosses> losses_;
  double gradient_norm_ = 0;
};

}  // namespace llmc
