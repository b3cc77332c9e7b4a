#include "passes/learned_floats.h"

#include <cmath>

#include "core/parallel.h"

namespace llmc {
namespace {

constexpr int64_t values_at_once = 4096;  ///< values that one task works on

}  // namespace

LearnedFloats::LearnedFloats(const StoredTensor& tensor, Zeros zeros) : tensor_(tensor), zeros_(zeros), values_(read_matrix(tensor)), mean_(values_.rows(), values_.cols()), square_(values_.rows(), values_.cols()) {
  double sum = 0;
  for (const float value : values_.values()) sum += double{value} * value;
  size_ = static_cast<float>(std::sqrt(sum / static_cast<double>(values_.values().size())));
}

void LearnedFloats::write_values(Matrix& values) const {
  const auto from = values_.values();
  const auto to = values.values();
  parallel_pieces(static_cast<int64_t>(from.size()), values_at_once, [&](int64_t first, int64_t last) {
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i) to[i] = round_to(tensor_.dtype, from[i]);
  });
}

void LearnedFloats::update(const Matrix& gradient, const OptimizerStep& step) {
  const AdamStep adam(step.rate, step.decay, ++steps_);
  const float shrink = 1 - step.rate * step.weight_decay;
  const auto values = values_.values(), mean = mean_.values(), square = square_.values();
  const auto from = gradient.values();
  parallel_pieces(static_cast<int64_t>(values.size()), values_at_once, [&](int64_t first, int64_t last) {
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i) {
      if (zeros_ == Zeros::kept && values[i] == 0) continue;
      if (step.optimizer == Optimizer::adamw) {
        values[i] = values[i] * shrink - adam.move(from[i], mean[i], square[i]);
      } else {
        mean[i] = step.decay.momentum * mean[i] + from[i] + step.weight_decay * values[i];
        values[i] -= step.rate * mean[i];
      }
    }
  });
}

}  // namespace llmc
