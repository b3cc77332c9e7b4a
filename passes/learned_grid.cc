#include "passes/learned_grid.h"

#include <cassert>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/learned_grid.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "model/kernels_inl.h"

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

/// The code at a position, without the zero point; never −0, which no stored code gives.
HWY_INLINE V code_at(V position, V lowest, V highest) { return hn::Add(hn::Min(hn::Max(hn::Round(position), lowest), highest), hn::Zero(D{})); }

/// What the code at a position means before the scale.
HWY_INLINE V unit_at(V position, const CodeRange& codes) {
  const D d;
  const V lowest = hn::Set(d, codes.lowest), code = code_at(position, lowest, hn::Set(d, codes.highest));
  if (!codes.levels) return code;
  return hn::GatherIndex(d, codes.levels, hn::ConvertTo(hn::RebindToSigned<D>(), hn::Sub(code, lowest)));
}

/// out = scale · what the codes mean
void decode_span(const float* position, size_t count, const CodeRange& codes, float scale, float* out) {
  const V s = hn::Set(D{}, scale);
  transform(position, count, out, [&](V at) { return hn::Mul(unit_at(at, codes), s); });
}

/// Σ gradient · ŵ / s over a span, with the sign of the scale: `sign`.
float pull_of_span(const float* gradient, float sign, const float* weights, size_t count, const CodeRange& codes, const float* position) {
  const D d;
  V toward = hn::Zero(d);
  for (size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto mask = hn::FirstN(d, count - i);
    const V g = hn::IfThenZeroElse(hn::Eq(hn::MaskedLoad(mask, d, weights + i), hn::Zero(d)), hn::Mul(hn::Set(d, sign), hn::MaskedLoad(mask, d, gradient + i)));
    toward = hn::MulAdd(g, unit_at(hn::MaskedLoad(mask, d, position + i), codes), toward);
  }
  return hn::GetLane(hn::SumOfLanes(d, toward));
}

/// One step of Adam on the positions of a span; a weight of 0 stays where it is. Answers what pull_of_span does, as the codes were before.
float step_span(const float* gradient, float sign, const float* weights, size_t count, const CodeRange& codes, const AdamStep& step, float* position, float* mean, float* square) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  V toward = hn::Zero(d);
  for (size_t i = 0; i < count; i += lanes) {
    const auto mask = hn::FirstN(d, count - i);
    const V g = hn::IfThenZeroElse(hn::Eq(hn::MaskedLoad(mask, d, weights + i), hn::Zero(d)), hn::Mul(hn::Set(d, sign), hn::MaskedLoad(mask, d, gradient + i)));
    const V at = hn::MaskedLoad(mask, d, position + i);
    const V m = hn::MulAdd(hn::Set(d, step.momentum), hn::MaskedLoad(mask, d, mean + i), hn::Mul(hn::Set(d, 1 - step.momentum), g));
    const V s = hn::MulAdd(hn::Set(d, step.memory), hn::MaskedLoad(mask, d, square + i), hn::Mul(hn::Set(d, 1 - step.memory), hn::Mul(g, g)));
    const V direction = hn::Div(hn::Mul(m, hn::Set(d, step.unbias_mean)), hn::Add(hn::Sqrt(hn::Mul(s, hn::Set(d, step.unbias_square))), hn::Set(d, step.epsilon)));
    const V moved = hn::NegMulAdd(hn::Set(d, step.rate), direction, at);
    toward = hn::MulAdd(g, unit_at(at, codes), toward);
    hn::BlendedStore(m, mask, d, mean + i);
    hn::BlendedStore(s, mask, d, square + i);
    hn::BlendedStore(hn::Min(hn::Max(moved, hn::Set(d, codes.lowest - 0.5f)), hn::Set(d, codes.highest + 0.5f)), mask, d, position + i);
  }
  return hn::GetLane(hn::SumOfLanes(d, toward));
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>

#include "core/parallel.h"

namespace llmc {
namespace {

HWY_EXPORT(decode_span);
HWY_EXPORT(pull_of_span);
HWY_EXPORT(step_span);

constexpr float margin = 0.25f;  ///< how far inside the cell of its code a weight starts, in codes

CodeRange codes_of(const Grid& grid) { return {.lowest = grid.lowest - grid.zero, .highest = grid.highest - grid.zero, .levels = grid.is_even() ? nullptr : grid.levels.data()}; }

/// Where a weight lies, in codes without the zero point. Between two levels it is as far as between their codes; beyond the
/// last one, and between levels that are equal, it is at `code`.
float place_of(float weight, float code, const Grid& grid) {
  const float wanted = weight / grid.scale;
  if (grid.is_even()) return wanted;
  const float level = grid.levels[static_cast<size_t>(code - grid.lowest)], neighbour = wanted > level ? code + 1 : code - 1;
  if (neighbour < grid.lowest || neighbour > grid.highest) return code;
  const float gap = std::abs(grid.levels[static_cast<size_t>(neighbour - grid.lowest)] - level);
  return gap > 0 ? code + (wanted - level) / gap : code;
}

}  // namespace

LearnedGrid::LearnedGrid(ConstMatrixView weights, QuantizedMatrix start)
    : weights_(weights),
      start_(std::move(start)),
      position_(weights.rows, weights.cols),
      scale_change_(start_.scales.size()),
      scale_mean_(start_.scales.size()),
      scale_square_(start_.scales.size()) {
  assert(start_.rows == weights.rows && start_.cols == weights.cols);
  parallel_pieces(weights.rows, 16, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < weights.cols; ++c) {
        const Grid grid = get_grid(start_, start_.scale_index(r, c));
        const float code = static_cast<float>(start_.codes[static_cast<size_t>(r * weights.cols + c)]) - grid.zero;
        position_.row(r)[c] = std::clamp(place_of(weights.row(r)[c], code, grid), code - 0.5f + margin, code + 0.5f - margin);
      }
  });
}

float LearnedGrid::stored_scale(const Grid& start, int64_t index) const { return scale_change_.empty() ? start.scale : stored_scales(start_)(start.scale * (1 + scale_change_[static_cast<size_t>(index)])); }

void LearnedGrid::for_each_span(auto&& body) const {
  parallel_pieces(start_.rows, 16, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t begin = 0; begin < start_.cols; begin += start_.span()) {
        const int64_t index = start_.scale_index(r, begin);
        body(r, begin, index, get_grid(start_, index));
      }
  });
}

void LearnedGrid::write_values(Matrix& values) const {
  for_each_span([&](int64_t r, int64_t begin, int64_t index, const Grid& grid) {
    HWY_DYNAMIC_DISPATCH(decode_span)(position_.row(r) + begin, static_cast<size_t>(start_.span()), codes_of(grid), stored_scale(grid, index), values.row(r) + begin);
  });
  for (size_t i = 0; i < start_.outliers.positions.size(); ++i) values.values()[static_cast<size_t>(start_.outliers.positions[i])] += start_.outliers.values[i];
}

void LearnedGrid::update(const Matrix& gradient, const LearningRates& rates) {
  ++steps_;
  const AdamStep step(rates.rounding, rates.decay, steps_), scale_step(rates.scale, rates.decay, steps_);
  if (rates.rounding > 0 && rounding_mean_.empty()) rounding_mean_ = rounding_square_ = Matrix(start_.rows, start_.cols);
  const int64_t span = start_.span();
  const int64_t rows_per_scale = start_.scheme.granularity == Granularity::tensor ? start_.rows : 1;
  parallel_pieces(start_.scale_rows(), 16, [&](int64_t first, int64_t last) {
    for (int64_t scale_row = first; scale_row < last; ++scale_row)
      for (int64_t begin = 0; begin < start_.cols; begin += span) {
        const int64_t index = start_.scale_index(scale_row, begin);
        const auto at = static_cast<size_t>(index);
        const Grid grid = get_grid(start_, index);
        const CodeRange codes = codes_of(grid);
        const float sign = std::copysign(1.0f, grid.scale);  // the values fall where the codes rise
        float toward = 0;
        for (int64_t r = scale_row * rows_per_scale; r < (scale_row + 1) * rows_per_scale; ++r)
          toward += rates.rounding > 0 ? HWY_DYNAMIC_DISPATCH(step_span)(gradient.row(r) + begin, sign, weights_.row(r) + begin, static_cast<size_t>(span), codes, step, position_.row(r) + begin, rounding_mean_.row(r) + begin, rounding_square_.row(r) + begin)
                                       : HWY_DYNAMIC_DISPATCH(pull_of_span)(gradient.row(r) + begin, sign, weights_.row(r) + begin, static_cast<size_t>(span), codes, position_.row(r) + begin);
        if (scale_change_.empty()) continue;
        scale_change_[at] = std::clamp(scale_change_[at] - scale_step.move(toward, scale_mean_[at], scale_square_[at]), -0.5f, 1.0f);
      }
  });
}

void LearnedGrid::set_offsets(const Matrix& offsets) {
  if (origin_.empty()) origin_ = position_;
  for_each_span([&](int64_t r, int64_t begin, int64_t, const Grid& grid) {
    const CodeRange codes = codes_of(grid);
    for (int64_t c = begin; c < begin + start_.span(); ++c)
      if (weights_.row(r)[c] != 0) position_.row(r)[c] = std::clamp(origin_.row(r)[c] + offsets.row(r)[c], codes.lowest - 0.5f, codes.highest + 0.5f);
  });
}

void LearnedGrid::make_offset_gradient(Matrix& gradient) const {
  for_each_span([&](int64_t r, int64_t begin, int64_t index, const Grid& grid) {
    const float scale = stored_scale(grid, index);
    for (int64_t c = begin; c < begin + start_.span(); ++c) gradient.row(r)[c] = weights_.row(r)[c] == 0 ? 0 : gradient.row(r)[c] * scale;
  });
}

QuantizedMatrix LearnedGrid::quantized() const {
  QuantizedMatrix result = start_;
  for (int64_t i = 0; i < static_cast<int64_t>(result.scales.size()); ++i) {
    Grid grid = get_grid(start_, i);
    grid.scale = stored_scale(grid, i);
    set_grid(result, i, grid);
  }
  for (int64_t r = 0; r < result.rows; ++r)
    for (int64_t c = 0; c < result.cols; ++c) {
      const Grid grid = get_grid(start_, start_.scale_index(r, c));
      result.codes[static_cast<size_t>(r * result.cols + c)] = static_cast<int8_t>(std::clamp(Grid::round_even(position_.row(r)[c]) + grid.zero, grid.lowest, grid.highest));
    }
  return result;
}

}  // namespace llmc
#endif
