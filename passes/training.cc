#include "passes/training.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "passes/shuffle.h"

namespace llmc {

void train(TrainableModel& model, Learner& learner, Teacher& teacher, const Sequences& samples, const TrainingPlan& plan, const PassContext& context) {
  Shuffle shuffle(samples.size(), context.seed, plan.order);
  const auto in_batch = std::min(samples.size(), static_cast<size_t>(plan.batch));
  for (size_t passed = static_cast<size_t>(plan.first_step * plan.accumulate) * in_batch; passed > 0; --passed) shuffle.next();
  LossWeights loss = plan.loss;
  loss.targets = teacher.kind();
  const auto started = std::chrono::steady_clock::now();
  int64_t tokens = 0;
  Stage stage(context.run, plan.name, plan.steps - plan.first_step);
  for (int64_t step = plan.first_step; step < plan.steps; ++step) {
    learner.begin_step(step);
    HeadLosses mean;
    for (int64_t i = 0; i < plan.accumulate; ++i) {
      std::vector<size_t> chosen(in_batch);
      for (size_t& sample : chosen) sample = shuffle.next();
      const Batch batch(samples, std::move(chosen));
      const TrainableHead::Teacher targets = loss.kl != 0 || plan.hidden || loss.attention != 0 ? teacher.look_at(batch) : TrainableHead::Teacher();
      model.run(batch.rows, batch.tokens);
      HeadLosses losses = model.backpropagate(loss, targets, batch.labels, learner, plan.hidden ? plan.hidden->compare(batch, teacher.hidden_states(), loss.hidden) : TrainableModel::HiddenLoss(), teacher.attention());
      if (plan.hidden) losses.hidden = plan.hidden->loss();
      for (const LossTerm& term : loss_terms) mean.*term.loss += losses.*term.loss / static_cast<double>(plan.accumulate);
      tokens += batch.rows.tokens();
    }
    if (!std::isfinite(mean.total(loss))) throw Error(ErrorKind::input, fmt::format("{}: the loss became {} at step {}; expected a number (a lower rate may help)", plan.name, mean.total(loss), step + 1));
    learner.end_step(step, mean);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
    stage.note(fmt::format("loss {:.4f}, {:.0f} tokens/s", mean.total(loss), static_cast<double>(tokens) / elapsed.count()));
    stage.count();
    if (plan.after_step) plan.after_step(step + 1);
    else context.run.check_stop();
  }
}

}  // namespace llmc
