#include "passes/learned_rounding.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "passes/learned_grid.h"
#include "passes/shuffle.h"

namespace llmc {
namespace {

/// A batch in memory, with the block's output for it.
struct Batch {
  Batch(const BlockSamples& samples, std::span<const size_t> chosen, int64_t width) : rows(lengths_of(samples, chosen)), input(rows.rows, width), target(rows.rows, width), output(rows.rows, width) {
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
double measure(const TrainableBlock& block, const BlockSamples& samples, int64_t width, BlockTape& tape) {
  constexpr size_t most = 8;  // of 512 tokens: the relative error is then known to a few hundredths of itself
  double error = 0, total = 0;
  const size_t count = std::min(most, samples.lengths.size());
  for (size_t i = 0; i < count; ++i) {
    const size_t sequence = i * samples.lengths.size() / count;
    Batch batch(samples, std::span(&sequence, 1), width);
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
  if (!std::isfinite(error)) throw Error(ErrorKind::input, fmt::format("{}: learned rounding: the error of the block's output is {}; expected a finite number", name, error));
}

}  // namespace

LearnedRounding learn_rounding(const ModelConfig& config, const BlockTensors& values, std::map<Role, QuantizedMatrix> start, const BlockSamples& samples, const LearnedRoundingOptions& options, const std::string& name, const RunContext& context) {
  assert(!samples.lengths.empty() && options.batch > 0);
  BlockTensors changing, gradients;
  std::map<Role, LearnedGrid> grids;
  TrainableBlock block(config, options.precision, options.backend);
  BlockTape tape;
  block.set(values);
  for (const auto& [role, matrix] : start) {
    const Matrix& weight = values.get(role);
    changing(role) = Matrix(weight.rows(), weight.cols());
    if (const Matrix* bias = values.find(role, Part::bias)) changing(role, Part::bias) = *bias;
    gradients(role) = Matrix(weight.rows(), weight.cols());
    grids.emplace(role, LearnedGrid(weight.view(), matrix));
  }
  const auto set_values = [&] {
    for (const auto& [role, grid] : grids) grid.write_values(changing(role));
    block.set(changing);
  };

  set_values();
  LearnedRounding result{.weights = std::move(start), .error_before = measure(block, samples, config.hidden, tape)};
  check_finite(result.error_before, name);
  Shuffle shuffle(samples.lengths.size(), options.seed, "learned rounding " + name);
  std::vector<size_t> chosen(std::min(static_cast<size_t>(options.batch), samples.lengths.size()));
  for (int64_t step = 0; step < options.iterations; ++step) {
    context.check_stop();
    std::ranges::generate(chosen, [&] { return shuffle.next(); });
    Batch batch(samples, chosen, config.hidden);
    block.run(batch.rows, batch.input.view(), batch.output.view(), tape);
    batch.turn_into_gradient();
    for (auto& [place, gradient] : gradients) std::ranges::fill(gradient.values(), 0.0f);
    block.backpropagate(batch.rows, batch.input.view(), batch.output.view(), tape, {}, gradients);
    const float left = 1 - static_cast<float>(step) / static_cast<float>(options.iterations);
    for (auto& [role, grid] : grids) grid.update(gradients.get(role), {.rounding = options.rounding_rate * left, .scale = options.scale_rate * left, .decay = {}});
    set_values();
  }
  result.error_after = measure(block, samples, config.hidden, tape);
  check_finite(result.error_after, name);
  if (result.error_after < result.error_before) {
    for (const auto& [role, grid] : grids) result.weights.at(role) = grid.quantized();
  } else {
    result.error_after = result.error_before;
  }
  return result;
}

}  // namespace llmc
