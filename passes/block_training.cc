#include "passes/block_training.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/error.h"
#include "passes/shuffle.h"

namespace llmc {
namespace {

/// A batch in memory, with the block's output for it.
struct BlockBatchRows {
  BlockBatchRows(const BlockSamples& samples, std::span<const size_t> chosen, int64_t width) : rows(lengths_of(samples, chosen)), input(rows.rows, width), target(rows.rows, width), output(rows.rows, width) {
    for (size_t i = 0; i < chosen.size(); ++i) {
      const auto [first, length] = rows.ranges[i];
      samples.read(chosen[i], input.view().row_range(first, length), target.view().row_range(first, length));
    }
  }

  static std::vector<int64_t> lengths_of(const BlockSamples& samples, std::span<const size_t> chosen) {
    std::vector<int64_t> lengths;
    for (const size_t sequence : chosen) lengths.push_back(samples.lengths[sequence]);
    return lengths;
  }

  /// The output becomes the gradient of the mean squared error.
  void turn_into_gradient() {
    int64_t tokens = 0;
    for (const auto& [first, length] : rows.ranges) tokens += length;
    const float factor = 2 / static_cast<float>(tokens * output.cols());
    for (size_t s = 0; s < rows.ranges.size(); ++s) {
      const auto [first, length] = rows.ranges[s];
      const int64_t end = s + 1 < rows.ranges.size() ? rows.ranges[s + 1].first : rows.rows;
      for (int64_t r = first; r < end; ++r)
        for (int64_t c = 0; c < output.cols(); ++c) output.row(r)[c] = r < first + length ? factor * (output.row(r)[c] - target.row(r)[c]) : 0.0f;
    }
  }

  SequenceRows rows;
  Matrix input, target, output;
};

/// Σ(out − target)² / Σ target² over a few sequences, read again for each so that one batch is in memory.
double measure_loss(const TrainableBlock& block, const BlockSamples& samples, int64_t width, BlockTape& tape) {
  constexpr size_t most = 8;  // of 512 tokens: the relative error is then known to a few hundredths of itself
  double error = 0, total = 0;
  const size_t count = std::min(most, samples.lengths.size());
  for (size_t i = 0; i < count; ++i) {
    const size_t sequence = i * samples.lengths.size() / count;
    BlockBatchRows batch(samples, std::span(&sequence, 1), width);
    block.run(batch.rows, batch.input.view(), batch.output.view(), tape);
    const auto [first, length] = batch.rows.ranges[0];
    for (int64_t r = first; r < first + length; ++r)
      for (int64_t c = 0; c < width; ++c) {
        const double difference = double{batch.output.row(r)[c]} - batch.target.row(r)[c];
        error += difference * difference;
        total += double{batch.target.row(r)[c]} * batch.target.row(r)[c];
      }
  }
  return total == 0 ? error : error / total;
}

void check_finite(double error, const std::string& name) {
  if (!std::isfinite(error)) throw Error(ErrorKind::input, fmt::format("{}: the error of the block's output is {}; expected a finite number", name, error));
}

}  // namespace

BlockSamples make_block_samples(const ActivationStore& inputs, const ActivationStore& outputs) {
  BlockSamples samples;
  for (int64_t i = 0; i < inputs.sequences(); ++i) samples.lengths.push_back(inputs.length(i));
  samples.read = [&](size_t sequence, MatrixView input, MatrixView target) {
    const auto i = static_cast<int64_t>(sequence);
    std::ranges::copy(inputs.read(i).values(), input.data);
    std::ranges::copy(outputs.read(i).values(), target.data);
  };
  return samples;
}

BlockErrors train_block(const ModelConfig& config, const BlockTensors& values, BlockLearner& learner, const BlockSamples& samples, const BlockTraining& training, const std::string& name, const RunContext& context) {
  assert(!samples.lengths.empty() && training.batch > 0);
  TrainableBlock block(config, training.precision, training.backend);
  BlockTape tape;
  block.set(values);
  BlockTensors gradients = learner.make_gradients(), present = learner.make_gradients();
  const auto set_values = [&] {
    learner.write_values(present);
    block.set(present);
  };

  set_values();
  BlockErrors errors{.before = measure_loss(block, samples, config.hidden, tape), .after = 0};
  check_finite(errors.before, name);
  Shuffle shuffle(samples.lengths.size(), training.seed, training.stream);
  std::vector<size_t> chosen(std::min(static_cast<size_t>(training.batch), samples.lengths.size()));
  for (int64_t step = 0; step < training.iterations; ++step) {
    context.check_stop();
    std::ranges::generate(chosen, [&] { return shuffle.next(); });
    BlockBatchRows batch(samples, chosen, config.hidden);
    block.run(batch.rows, batch.input.view(), batch.output.view(), tape);
    batch.turn_into_gradient();
    for (auto& [place, gradient] : gradients) std::ranges::fill(gradient.values(), 0.0f);
    block.backpropagate(batch.rows, batch.input.view(), batch.output.view(), tape, {}, gradients);
    learner.update(gradients, 1 - static_cast<float>(step) / static_cast<float>(training.iterations));
    set_values();
  }
  errors.after = measure_loss(block, samples, config.hidden, tape);
  check_finite(errors.after, name);
  return errors;
}

}  // namespace llmc
