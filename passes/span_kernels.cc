#include "passes/span_kernels.h"

#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "passes/span_kernels.cc"  // compiled once per instruction set
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, span_lanes>;
using V = hn::Vec<D>;

/// body(first) for every vector of the sixteen lanes.
template <typename Body>
HWY_INLINE void for_lanes(Body body) {
  for (size_t first = 0; first < span_lanes; first += hn::Lanes(D())) body(first);
}

/// Levels and codes of places, evenly spaced.
struct EvenLevels {
  explicit EvenLevels(const LevelSteps& steps) : lowest(hn::Set(D(), steps.lowest)), highest(hn::Set(D(), steps.highest)), first(hn::Set(D(), steps.first)) {}
  HWY_INLINE V level(V place) const { return hn::Min(hn::Max(hn::Round(place), lowest), highest); }
  HWY_INLINE V code(V, V level) const { return hn::Sub(level, first); }
  V lowest, highest, first;
};

/// … and from a table: the level after each border that the place exceeds.
struct TableLevels {
  explicit TableLevels(const LevelSteps& given) : steps(given) {}
  HWY_INLINE V level(V place) const { return after_borders(place, [&](size_t i) { return steps.levels[i]; }); }
  HWY_INLINE V code(V place, V) const { return after_borders(place, [](size_t i) { return static_cast<float>(i); }); }
  template <typename Value>
  HWY_INLINE V after_borders(V place, Value value) const {
    const D d;
    V nearest = hn::Set(d, value(0));
    for (size_t i = 0; i < static_cast<size_t>(steps.steps); ++i) nearest = hn::IfThenElse(hn::Gt(place, hn::Set(d, steps.borders[i])), hn::Set(d, value(i + 1)), nearest);
    return nearest;
  }
  const LevelSteps& steps;
};

void measure(const SpanBatch& batch, SpanFacts& facts) {
  const D d;
  for_lanes([&](size_t first) {
    V low = hn::Load(d, batch.x + first), high = low, w_sum = hn::Zero(d), x_sum = w_sum, xx_sum = w_sum;
    for (int i = 0; i < batch.weights; ++i) {
      const size_t at = static_cast<size_t>(i) * span_lanes + first;
      const V x = hn::Load(d, batch.x + at), w = hn::Load(d, batch.w + at);
      low = hn::Min(low, x);
      high = hn::Max(high, x);
      w_sum = hn::Add(w_sum, w);
      const V wx = hn::Mul(w, x);
      x_sum = hn::Add(x_sum, wx);
      xx_sum = hn::Add(xx_sum, hn::Mul(wx, x));
    }
    hn::Store(low, d, facts.low.data() + first);
    hn::Store(high, d, facts.high.data() + first);
    hn::Store(w_sum, d, facts.w.data() + first);
    hn::Store(x_sum, d, facts.x.data() + first);
    hn::Store(xx_sum, d, facts.xx.data() + first);
  });
}

template <typename Levels>
HWY_INLINE void add_up_levels(const SpanBatch& batch, const Levels& levels, const Lanes& inverse, const Lanes& min, SpanSums& sums) {
  const D d;
  for_lanes([&](size_t first) {
    const V factor = hn::Load(d, inverse.data() + first), offset = hn::Load(d, min.data() + first);
    V q_sum = hn::Zero(d), qq_sum = q_sum, xq_sum = q_sum;
    for (int i = 0; i < batch.weights; ++i) {
      const size_t at = static_cast<size_t>(i) * span_lanes + first;
      const V x = hn::Load(d, batch.x + at), w = hn::Load(d, batch.w + at);
      const V q = levels.level(hn::Mul(hn::Add(x, offset), factor));
      const V wq = hn::Mul(w, q);
      q_sum = hn::Add(q_sum, wq);
      qq_sum = hn::Add(qq_sum, hn::Mul(wq, q));
      xq_sum = hn::Add(xq_sum, hn::Mul(wq, x));
    }
    hn::Store(q_sum, d, sums.q.data() + first);
    hn::Store(qq_sum, d, sums.qq.data() + first);
    hn::Store(xq_sum, d, sums.xq.data() + first);
  });
}
void add_up(const SpanBatch& batch, const LevelSteps& levels, const Lanes& inverse, const Lanes& min, SpanSums& sums) {
  levels.even ? add_up_levels(batch, EvenLevels(levels), inverse, min, sums) : add_up_levels(batch, TableLevels(levels), inverse, min, sums);
}

template <typename Levels>
HWY_INLINE void round_to_levels(SpanBatch& batch, const Levels& levels, const Lanes& scale, const Lanes& min, Lanes& error) {
  const D d;
  const hn::Rebind<uint8_t, D> bytes;
  for_lanes([&](size_t first) {
    const V s = hn::Load(d, scale.data() + first), offset = hn::Load(d, min.data() + first);
    const V factor = hn::IfThenElse(hn::Eq(s, hn::Zero(d)), hn::Zero(d), hn::Div(hn::Set(d, 1.0f), s));
    V sum = hn::Zero(d);
    for (int i = 0; i < batch.weights; ++i) {
      const size_t at = static_cast<size_t>(i) * span_lanes + first;
      const V x = hn::Load(d, batch.x + at), w = hn::Load(d, batch.w + at);
      const V place = hn::Mul(hn::Add(x, offset), factor);
      const V q = levels.level(place);
      const V difference = hn::Sub(x, hn::Sub(hn::Mul(s, q), offset));
      sum = hn::Add(sum, hn::Mul(w, hn::Mul(difference, difference)));
      hn::Store(hn::DemoteTo(bytes, hn::NearestInt(levels.code(place, q))), bytes, batch.codes + at);
    }
    hn::Store(sum, d, error.data() + first);
  });
}
void round(SpanBatch& batch, const LevelSteps& levels, const Lanes& scale, const Lanes& min, Lanes& error) {
  levels.even ? round_to_levels(batch, EvenLevels(levels), scale, min, error) : round_to_levels(batch, TableLevels(levels), scale, min, error);
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace llmc {
namespace {

HWY_EXPORT(measure);
HWY_EXPORT(add_up);
HWY_EXPORT(round);

}  // namespace

const SpanKernels& vector_span_kernels() {
  static constexpr SpanKernels kernels = {
      .measure = [](const SpanBatch& batch, SpanFacts& facts) { HWY_DYNAMIC_DISPATCH(measure)(batch, facts); },
      .add_up = [](const SpanBatch& batch, const LevelSteps& levels, const Lanes& inverse, const Lanes& min, SpanSums& sums) { HWY_DYNAMIC_DISPATCH(add_up)(batch, levels, inverse, min, sums); },
      .round = [](SpanBatch& batch, const LevelSteps& levels, const Lanes& scale, const Lanes& min, Lanes& error) { HWY_DYNAMIC_DISPATCH(round)(batch, levels, scale, min, error); },
  };
  return kernels;
}

}  // namespace llmc
#endif
