#include "passes/teacher.h"

#include <algorithm>
#include <numeric>

#include "core/parallel.h"

namespace llmc {
namespace {

std::vector<int64_t> lengths_of(const Sequences& samples, std::span<const size_t> chosen) {
  std::vector<int64_t> lengths;
  for (const size_t i : chosen) lengths.push_back(static_cast<int64_t>(samples[i].size()));
  return lengths;
}

}  // namespace

Batch::Batch(const Sequences& samples, std::vector<size_t> chosen_samples) : chosen(std::move(chosen_samples)), rows(lengths_of(samples, chosen)), tokens(static_cast<size_t>(rows.rows), -1), labels(tokens.size(), -1) {
  for (size_t i = 0; i < chosen.size(); ++i) {
    const auto& sample = samples[chosen[i]];
    std::ranges::copy(sample, tokens.begin() + rows.ranges[i].first);
    std::copy(sample.begin() + 1, sample.end(), labels.begin() + rows.ranges[i].first);
  }
}

TeacherModel::TeacherModel(Model model, TeacherRuns runs, const Sequences& samples, const PassContext& context)
    : model_(std::move(model)), samples_(samples), context_(context), forward_(model_, context.sweep.forward), head_(model_.config(), context.sweep.forward.precision, context.sweep.forward.backend) {
  BlockTensors values = read_block(model_, -1);
  if (model_.config().tied_head) values(Role::output_head) = std::move(values(Role::token_embedding));
  head_.set(values);
  if (runs == TeacherRuns::with_each_batch) return;
  std::vector<size_t> all(samples.size());
  std::iota(all.begin(), all.end(), size_t{0});
  kept_.emplace(run(all, [](int64_t, size_t, const Matrix&) {}));
}

ActivationStore TeacherModel::run(std::span<const size_t> chosen, const Told& told) const {
  ActivationStore hidden(lengths_of(samples_, chosen), model_.config().hidden, context_.sweep.activations, std::nullopt);
  parallel_for(hidden.sequences(), [&](int64_t i) {
    Matrix states(hidden.length(i), hidden.width());
    forward_.embed(samples_[chosen[static_cast<size_t>(i)]], states.view());
    hidden.write(i, states.view());
  });
  for (int64_t block = 0; block < model_.config().layers; ++block) {
    const auto weights = forward_.load_block(block);
    parallel_for(hidden.sequences(), [&](int64_t i) {
      Matrix states = hidden.read(i);
      forward_.run_block(*weights, states.view());
      told(block + 1, static_cast<size_t>(i), states);
      hidden.write(i, states.view());
    });
    context_.run.check_stop();
  }
  return hidden;
}

TrainableHead::Teacher TeacherModel::look_at(const Batch& batch) {
  hidden_ = Matrix(batch.rows.rows, model_.config().hidden);
  std::optional<ActivationStore> made;
  for (size_t k = 0; k < kept_blocks_.size(); ++k) states_.resize(kept_blocks_.size()), states_[k] = Matrix(batch.rows.rows, model_.config().hidden);
  const auto keep = [&](int64_t blocks, size_t i, const Matrix& states) {
    for (size_t k = 0; k < kept_blocks_.size(); ++k)
      if (kept_blocks_[k] == blocks) std::ranges::copy(states.values(), states_[k].row(batch.rows.ranges[i].first));
  };
  if (!kept_) made.emplace(run(batch.chosen, keep));
  for (size_t i = 0; i < batch.chosen.size(); ++i) {
    const Matrix states = made ? made->read(static_cast<int64_t>(i)) : kept_->read(static_cast<int64_t>(batch.chosen[i]));
    std::ranges::copy(states.values(), hidden_.row(batch.rows.ranges[i].first));
  }
  return [this](int64_t first, MatrixView logits) { head_.run(std::as_const(hidden_).view().row_range(first, logits.rows), logits); };
}

}  // namespace llmc
