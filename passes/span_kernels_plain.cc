#include <algorithm>
#include <cassert>
#include <cmath>

#include "passes/span_kernels.h"

namespace llmc {
namespace {

void measure(const SpanBatch& batch, SpanFacts& facts) {
  for (size_t lane = 0; lane < span_lanes; ++lane) {
    float low = batch.x[lane], high = batch.x[lane], w_sum = 0, x_sum = 0, xx_sum = 0;
    for (int i = 0; i < batch.weights; ++i) {
      const float x = batch.x[static_cast<size_t>(i) * span_lanes + lane], w = batch.w[static_cast<size_t>(i) * span_lanes + lane];
      low = std::min(low, x);
      high = std::max(high, x);
      w_sum += w;
      x_sum += w * x;
      xx_sum += w * x * x;
    }
    facts.low[lane] = low;
    facts.high[lane] = high;
    facts.w[lane] = w_sum;
    facts.x[lane] = x_sum;
    facts.xx[lane] = xx_sum;
  }
}

void add_up(const SpanBatch& batch, const LevelSteps& levels, const Lanes& inverse, const Lanes& min, SpanSums& sums) {
  for (size_t lane = 0; lane < span_lanes; ++lane) {
    float q_sum = 0, qq_sum = 0, xq_sum = 0;
    for (int i = 0; i < batch.weights; ++i) {
      const float x = batch.x[static_cast<size_t>(i) * span_lanes + lane], w = batch.w[static_cast<size_t>(i) * span_lanes + lane];
      const float q = levels.level(levels.code((x + min[lane]) * inverse[lane]));
      q_sum += w * q;
      qq_sum += w * q * q;
      xq_sum += w * q * x;
    }
    sums.q[lane] = q_sum;
    sums.qq[lane] = qq_sum;
    sums.xq[lane] = xq_sum;
  }
}

void round(SpanBatch& batch, const LevelSteps& levels, const Lanes& scale, const Lanes& min, Lanes& error) {
  for (size_t lane = 0; lane < span_lanes; ++lane) {
    const float inverse = scale[lane] == 0 ? 0 : 1 / scale[lane];
    float sum = 0;
    for (int i = 0; i < batch.weights; ++i) {
      const size_t at = static_cast<size_t>(i) * span_lanes + lane;
      const int code = levels.code((batch.x[at] + min[lane]) * inverse);
      const float difference = batch.x[at] - (scale[lane] * levels.level(code) - min[lane]);
      sum += batch.w[at] * (difference * difference);
      batch.codes[at] = static_cast<uint8_t>(code);
    }
    error[lane] = sum;
  }
}

}  // namespace

LevelSteps::LevelSteps(const BlockGrid& grid) : even(grid.is_even()), lowest(grid.levels[static_cast<size_t>(grid.lowest_code)]), highest(grid.levels[static_cast<size_t>(grid.highest_code)]), first(grid.levels.front()) {
  if (even) return;
  assert(grid.levels.size() <= levels.size());
  steps = static_cast<int>(grid.levels.size()) - 1;
  std::ranges::copy(grid.levels, levels.begin());
  for (size_t i = 0; i < static_cast<size_t>(steps); ++i) borders[i] = (levels[i] + levels[i + 1]) / 2;
}

int LevelSteps::code(float place) const {
  if (even) return static_cast<int>(std::clamp(std::nearbyint(place), lowest, highest) - first);
  int code = 0;
  while (code < steps && place > borders[static_cast<size_t>(code)]) ++code;
  return code;
}

const SpanKernels& plain_span_kernels() {
  static constexpr SpanKernels kernels = {.measure = measure, .add_up = add_up, .round = round};
  return kernels;
}

}  // namespace llmc
