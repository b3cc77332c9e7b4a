#include "passes/half_quadratic.h"

#include <algorithm>
#include <cmath>

namespace llmc {
namespace {

constexpr float power = 0.7f;

/// Generalized soft thresholding: argmin over e of |e|^p + β/2·(e − x)², to the first order in 1/β. It is 0 up to `threshold`.
struct Shrink {
  explicit Shrink(float with_beta) : beta(with_beta), threshold(std::pow(with_beta, -1 / (2 - power))) {}

  float operator()(float x) const {
    const float size = std::abs(x);
    return size <= threshold ? 0 : std::copysign(size - std::pow(size, power - 1) / beta, x);
  }

  float beta;
  float threshold;
};

/// Least squares of t ≈ scale·(q − zero) over the weights of a span; q is a code, or a level.
class Fit {
 public:
  void add(double importance, double code, double target) {
    weight_ += importance;
    code_ += importance * code;
    target_ += importance * target;
    code_code_ += importance * code * code;
    code_target_ += importance * code * target;
  }
  /// The grid through the points; that of `before` where they do not say.
  Grid symmetric(Grid before) const {
    if (code_code_ > 0) before.scale = static_cast<float>(code_target_ / code_code_);
    return before;
  }
  Grid linear(Grid before) const {
    const double variance = weight_ * code_code_ - code_ * code_;
    if (!(variance > 0)) return before;
    const double scale = (weight_ * code_target_ - code_ * target_) / variance;
    before.scale = static_cast<float>(scale);
    before.zero = static_cast<float>((code_ - target_ / scale) / weight_);
    return before;
  }

 private:
  double weight_ = 0, code_ = 0, target_ = 0, code_code_ = 0, code_target_ = 0;
};

void each_weight(ConstMatrixView weights, std::span<const float> importance, auto&& body) {
  for (int64_t r = 0; r < weights.rows; ++r)
    for (int64_t c = 0; c < weights.cols; ++c) body(weights.row(r)[c], importance.empty() ? 1.0f : importance[static_cast<size_t>(c)]);
}

}  // namespace

double grid_error(ConstMatrixView weights, std::span<const float> importance, const Grid& grid) {
  constexpr int64_t lanes = 16;  // partial sums, so that it vectorizes in a fixed order
  const auto sum_errors = [&](auto&& rounded) {
    double sum = 0;
    for (int64_t r = 0; r < weights.rows; ++r) {
      const float* row = weights.row(r);
      float partial[lanes] = {};
      const auto add = [&](int64_t lane, int64_t c) {
        const float error = std::abs(row[c] - rounded(row[c]));
        partial[lane] += (importance.empty() ? 1.0f : importance[static_cast<size_t>(c)]) * error * error * std::sqrt(error);
      };
      int64_t c = 0;
      for (; c + lanes <= weights.cols; c += lanes)
        for (int64_t lane = 0; lane < lanes; ++lane) add(lane, c + lane);
      for (; c < weights.cols; ++c) add(0, c);
      for (float value : partial) sum += value;
    }
    return sum;
  };
  if (grid.is_even()) return sum_errors([&](float x) { return grid.even_value(grid.even_code(x)); });
  return sum_errors([&](float x) { return grid.value(grid.code(x)); });
}

Grid search_half_quadratic(ConstMatrixView weights, std::span<const float> importance, const Grid& start, const Scheme& scheme, const ScaleRounding& stored) {
  constexpr int rounds = 20, patience = 5;
  constexpr float first_beta = 1, growth = 1.2f;  // errors of more than a step are set aside first, of 0.06 steps at the end
  const float step = start.is_even() ? 1 : (start.levels.back() - start.levels.front()) / static_cast<float>(start.levels.size() - 1);  // of levels, on average
  Grid best = start, grid = start;
  double least = grid_error(weights, importance, start);
  float beta = first_beta;
  for (int round = 0, last_better = 0; round < rounds && round - last_better <= patience && least > 0; ++round, beta *= growth) {
    Fit fit;
    const Shrink shrink(beta);
    each_weight(weights, importance, [&](float x, float weight) {
      const float code = grid.code(x);
      const float unit = grid.scale * step, error = shrink((x - grid.value(code)) / unit) * unit;
      fit.add(weight, grid.is_even() ? code : grid.levels[static_cast<size_t>(code - grid.lowest)], x - error);
    });
    grid = scheme.mapping == Mapping::symmetric ? fit.symmetric(grid) : fit.linear(grid);
    if (grid.scale == 0 || !std::isfinite(grid.scale)) break;
    grid.scale = stored(grid.scale);
    grid.zero = std::clamp(Grid::round_even(std::clamp(grid.zero, 2 * grid.lowest, 2 * grid.highest)), grid.lowest, grid.highest);
    if (grid.scale == 0 || !std::isfinite(grid.scale)) break;
    const double error = grid_error(weights, importance, grid);
    if (error < least) least = error, best = grid, last_better = round;
  }
  return best;
}

}  // namespace llmc
