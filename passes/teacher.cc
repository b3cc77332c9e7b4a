#include "passes/teacher.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
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
  if (model_.config().projects_embedding) throw Error(ErrorKind::usage, fmt::format("teacher {}: has matrices between embeddings and hidden states, which its head is not run with here", model_.checkpoint().directory.string()));
  BlockTensors values = read_block(model_, -1);
  if (model_.config().tied_head) values(Role::output_head) = std::move(values(Role::token_embedding));
  head_.set(values);
  if (runs == TeacherRuns::with_each_batch) return;
  std::vector<size_t> all(samples.size());
  std::iota(all.begin(), all.end(), size_t{0});
  kept_.emplace(run(all, [&](int64_t, const BlockWeights*, size_t, const Matrix&) { context_.run.check_stop(); }));
}

void TeacherModel::keep_attention(std::vector<int64_t> blocks) {
  for (const int64_t block : blocks) kept_attention_.push_back({.block = block, .config = model_.config().at_block(block), .q = {}, .k = {}});
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
      told(block, weights.get(), static_cast<size_t>(i), states);
      forward_.run_block(*weights, states.view());
      if (block + 1 == model_.config().layers) told(block + 1, nullptr, static_cast<size_t>(i), states);
      hidden.write(i, states.view());
    });
  }
  return hidden;
}

TrainableHead::Teacher TeacherModel::look_at(const Batch& batch) {
  hidden_ = Matrix(batch.rows.rows, model_.config().hidden);
  std::optional<ActivationStore> made;
  for (size_t k = 0; k < kept_blocks_.size(); ++k) states_.resize(kept_blocks_.size()), states_[k] = Matrix(batch.rows.rows, model_.config().hidden);
  attention_.clear();
  for (KeptAttention& kept : kept_attention_) {
    kept.q = Matrix(batch.rows.rows, kept.config.query_width());
    kept.k = Matrix(batch.rows.rows, kept.config.kv_width());
    attention_.push_back({.config = &kept.config, .q = std::as_const(kept.q).view(), .k = std::as_const(kept.k).view()});
  }
  const auto keep = [&](int64_t blocks, const BlockWeights* next, size_t i, const Matrix& states) {
    const auto& [first, length] = batch.rows.ranges[i];
    for (size_t k = 0; k < kept_blocks_.size(); ++k)
      if (kept_blocks_[k] == blocks) std::ranges::copy(states.values(), states_[k].row(first));
    for (KeptAttention& kept : kept_attention_)
      if (kept.block == blocks) forward_.read_attention(*next, states.view(), kept.q.view().row_range(first, length), kept.k.view().row_range(first, length));
  };
  if (!kept_) made.emplace(run(batch.chosen, keep));
  for (size_t i = 0; i < batch.chosen.size(); ++i) {
    const Matrix states = made ? made->read(static_cast<int64_t>(i)) : kept_->read(static_cast<int64_t>(batch.chosen[i]));
    std::ranges::copy(states.values(), hidden_.row(batch.rows.ranges[i].first));
  }
  return [this](int64_t first, MatrixView logits) { head_.run(std::as_const(hidden_).view().row_range(first, logits.rows), logits); };
}

}  // namespace llmc
