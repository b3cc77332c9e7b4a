// Owns what the search for blocks does with one span of each block, written once for any lanes: one float (the plain reference) or a
// vector of them. Included once per instruction set, after <hwy/highway.h>.
#include <array>

#include "passes/block_batch.h"
#include "passes/level_steps.h"
#include "passes/search_effort.h"

#if defined(LLMC_SPAN_SEARCH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LLMC_SPAN_SEARCH_INL
#undef LLMC_SPAN_SEARCH_INL
#else
#define LLMC_SPAN_SEARCH_INL
#endif

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

/// Levels and codes of x · factor + shift, evenly spaced. Adding whole_bias rounds.
template <typename O>
struct EvenLevels {
  using V = typename O::V;
  static constexpr bool fixed_point = false;

  explicit EvenLevels(const LevelSteps& steps) : lowest(O::set(steps.lowest + whole_bias)), highest(O::set(steps.highest + whole_bias)), first(O::set(steps.first)), rounder(O::set(whole_bias)) {}
  HWY_INLINE V level(V x, V factor) const { return O::sub(snap(x, factor), rounder); }
  HWY_INLINE V level(V x, V factor, V shift) const { return O::sub(snap(x, factor, shift), rounder); }
  /// … plus whole_bias
  HWY_INLINE V biased_code(V x, V factor) const { return O::sub(snap(x, factor), first); }
  HWY_INLINE V biased_code(V x, V factor, V shift) const { return O::sub(snap(x, factor, shift), first); }

 private:
  HWY_INLINE V snap(V x, V factor) const { return O::min(O::max(O::fma(x, factor, rounder), lowest), highest); }
  HWY_INLINE V snap(V x, V factor, V shift) const { return O::min(O::max(O::add(O::fma(x, factor, shift), rounder), lowest), highest); }
  V lowest, highest, first, rounder;
};

/// … with sums in fixed point, two weights in each lane: for a few levels and weights that all count 1.
template <typename O>
struct FixedPointLevels : EvenLevels<O> {
  using V = typename O::V;
  using P = typename O::Pairs;
  static constexpr bool fixed_point = true;
  static constexpr int fraction = 10;             ///< bits of a place
  static constexpr float largest = 0x1p15f - 1;  ///< what the outermost weight of a span becomes

  explicit FixedPointLevels(const LevelSteps& steps) : EvenLevels<O>(steps), least(O::pairs_of(O::set(steps.lowest))), most(O::pairs_of(O::set(steps.highest))), whole(O::pairs_of(O::set(1 << (15 - fraction)))) {}
  /// What places are in fixed point, for factors of weights in fixed point: `unit` is what 1 there means.
  HWY_INLINE P fixed_factor(V factor, V unit) const {
    const V value = O::mul(factor, O::mul(unit, O::set(static_cast<float>(1 << (15 + fraction)))));
    return O::pairs_of(O::min(O::max(value, O::set(-largest)), O::set(largest)));
  }
  HWY_INLINE P level_of(P x, P factor) const { return O::min_pairs(O::max_pairs(O::mul_pairs(O::mul_pairs(x, factor), whole), least), most); }

 private:
  P least, most, whole;
};

/// … and from a table: the level after each border that the place exceeds.
template <typename O>
struct TableLevels {
  using V = typename O::V;
  static constexpr bool fixed_point = false;

  explicit TableLevels(const LevelSteps& given) : steps(given) {}
  HWY_INLINE V level(V x, V factor) const { return nearest_to(O::mul(x, factor)); }
  HWY_INLINE V level(V x, V factor, V shift) const { return nearest_to(O::fma(x, factor, shift)); }
  HWY_INLINE V biased_code(V x, V factor) const { return code_of(O::mul(x, factor)); }
  HWY_INLINE V biased_code(V x, V factor, V shift) const { return code_of(O::fma(x, factor, shift)); }

 private:
  HWY_INLINE V code_of(V place) const {
    V code = O::set(whole_bias);
    for (size_t i = 0; i < 15; ++i) code = O::select(O::greater(place, O::set(steps.borders[i])), O::set(whole_bias + static_cast<float>(i + 1)), code);
    return code;
  }
  HWY_INLINE V nearest_to(V place) const {
    V nearest = O::set(steps.levels[0]);
    for (size_t i = 0; i < 15; ++i) nearest = O::select(O::greater(place, O::set(steps.borders[i])), O::set(steps.levels[i + 1]), nearest);
    return nearest;
  }
  const LevelSteps& steps;
};

/// O: the operations on lanes. Figures of spans lie in memory, a vector for each span.
template <typename O, typename Levels, ErrorWeights weights>
class SpanSearch {
 protected:
  using V = typename O::V;
  using SpanLanes = std::array<Lanes, Block::most_spans>;
  /// Of the weights and their levels q: Σ w q, Σ w q², Σ w x q.
  struct Sums {
    V q, qq, xq;
  };
  enum class Shift { none, given };

  SpanSearch(const GgufTypeInfo& type, const LevelSteps& steps, BlockBatch& batch, size_t lane)
      : grid_(type.grid), effort_(search_effort(type.grid, Levels::fixed_point)), span_(static_cast<size_t>(type.grid.span)), spans_(static_cast<size_t>(type.spans())), steps_(steps), levels_(steps), batch_(batch), lane_(lane), largest_(O::set(0)), poison_(O::set(0)) {}

  HWY_INLINE float* at(Lanes& figures) const { return figures.data() + lane_; }
  HWY_INLINE V load(Lanes& figures) const { return O::load(at(figures)); }
  static HWY_INLINE V inverse(V v) { return O::select(O::equal(v, O::set(0)), O::set(0), O::div(O::set(1), v)); }
  static HWY_INLINE V ratio(V a, V b) { return O::select(O::equal(b, O::set(0)), O::set(0), O::div(a, b)); }
  static HWY_INLINE V integer(V v, V least, V most) { return O::min(O::max(O::round(v), least), most); }

  /// Calls body(x, w) for the weights of a span, in order.
  template <typename Body>
  HWY_INLINE void for_weights(size_t k, Body body) const {
    const float* x = batch_.x + k * span_ * block_lanes + lane_;
    const float* w = batch_.w + k * span_ * block_lanes + lane_;
    for (size_t i = 0; i < span_; ++i) body(O::load(x + i * block_lanes), weights == ErrorWeights::given ? O::load(w + i * block_lanes) : O::set(1));
  }

  /// Asks for one of so many parts of the next batch: a processor waits for only some lines at a time.
  HWY_INLINE void fetch_ahead(size_t part, size_t parts) const {
    constexpr size_t line = 16;  // floats
    const size_t size = spans_ * span_ * block_lanes / parts;
    if (!batch_.next || lane_ != 0) return;
    for (size_t i = 0; i < size; i += line) __builtin_prefetch(batch_.next + part * size + i);
  }

  /// Of the weights alone: the smallest and the largest, Σ w and Σ w x.
  HWY_INLINE void measure(size_t k) {
    const V zero = O::set(0);
    V low = O::load(batch_.x + k * span_ * block_lanes + lane_), high = low, w_sum = zero, x_sum = zero;
    for_weights(k, [&](V x, V w) {
      low = O::min(low, x);
      high = O::max(high, x);
      poison_ = O::fma(x, zero, poison_);
      if constexpr (Levels::fixed_point) return;  // no minima
      w_sum = O::add(w_sum, w);
      x_sum = O::fma(w, x, x_sum);
    });
    O::store(low, at(low_[k]));
    O::store(high, at(high_[k]));
    O::store(w_sum, at(w_[k]));
    O::store(x_sum, at(x_[k]));
    if constexpr (Levels::fixed_point) fix_points(k);
    largest_ = O::max(largest_, O::max(O::sub(zero, low), high));
  }

  template <Shift shift>
  HWY_INLINE void add(V x, V w, V factor, V offset, Sums& sums) const {
    V q;
    if constexpr (shift == Shift::given) q = levels_.level(x, factor, offset);
    else q = levels_.level(x, factor);
    const V wq = weights == ErrorWeights::given ? O::mul(w, q) : q;
    if constexpr (shift == Shift::given) sums.q = O::add(sums.q, wq);
    sums.qq = O::fma(wq, q, sums.qq);
    sums.xq = O::fma(wq, x, sums.xq);
  }
  static HWY_INLINE Sums no_sums() { return {O::set(0), O::set(0), O::set(0)}; }

  /// q: the level nearest to x · factor + offset
  template <Shift shift>
  HWY_INLINE Sums add_up(size_t k, V factor, V offset) {
    Sums sums = no_sums();
    if constexpr (Levels::fixed_point) return add_up_fixed(k, factor);
    for_weights(k, [&](V x, V w) { add<shift>(x, w, factor, offset, sums); });
    return sums;
  }
  /// … for two factors at once.
  template <Shift shift>
  HWY_INLINE void add_up(size_t k, V factor, V offset, V other_factor, V other_offset, Sums& sums, Sums& others) {
    if constexpr (Levels::fixed_point) return add_up_fixed(k, factor, other_factor, sums, others);
    Sums a = no_sums(), b = no_sums();
    for_weights(k, [&](V x, V w) {
      add<shift>(x, w, factor, offset, a);
      add<shift>(x, w, other_factor, other_offset, b);
    });
    sums = a;
    others = b;
  }

  /// Weights in fixed point, two in each lane.
  HWY_INLINE void fix_points(size_t k) {
    const V size = O::max(O::sub(O::set(0), load(low_[k])), load(high_[k])), factor = O::mul(inverse(size), O::set(Levels::largest));
    O::store(O::mul(size, O::set(1 / Levels::largest)), at(unit_[k]));
    const float* x = batch_.x + k * span_ * block_lanes + lane_;
    const auto place = [&](size_t i) { return O::fma(O::load(x + i * block_lanes), factor, O::set(whole_bias)); };
    for (size_t i = 0; i < span_ / 2; ++i) O::store_pairs(O::pairs_of_biased(place(2 * i), place(2 * i + 1)), pairs(k, i));
  }
  HWY_INLINE int32_t* pairs(size_t k, size_t i) { return fixed_.data() + (k * span_ / 2 + i) * block_lanes + lane_; }

  struct FixedSums {
    typename O::Integers qq, xq;
    HWY_INLINE void add(typename O::Pairs x, typename O::Pairs q) {
      qq = O::add_products(q, q, qq);
      xq = O::add_products(x, q, xq);
    }
    HWY_INLINE Sums in_units(V unit) const { return {O::set(0), O::to_float(qq), O::mul(O::to_float(xq), unit)}; }
  };
  HWY_INLINE Sums add_up_fixed(size_t k, V factor) {
    const V unit = load(unit_[k]);
    const auto fixed = levels_.fixed_factor(factor, unit);
    FixedSums sums = {O::no_integers(), O::no_integers()};
    for (size_t i = 0; i < span_ / 2; ++i) {
      const auto x = O::load_pairs(pairs(k, i));
      sums.add(x, levels_.level_of(x, fixed));
    }
    return sums.in_units(unit);
  }
  HWY_INLINE void add_up_fixed(size_t k, V factor, V other_factor, Sums& sums, Sums& others) {
    const V unit = load(unit_[k]);
    const auto first = levels_.fixed_factor(factor, unit), second = levels_.fixed_factor(other_factor, unit);
    FixedSums a = {O::no_integers(), O::no_integers()}, b = a;
    for (size_t i = 0; i < span_ / 2; ++i) {
      const auto x = O::load_pairs(pairs(k, i));
      a.add(x, levels_.level_of(x, first));
      b.add(x, levels_.level_of(x, second));
    }
    sums = a.in_units(unit);
    others = b.in_units(unit);
  }

  // A span's own fit, with scales (and minima) that are any floats.

  /// x ≈ s q: s = Σ w x q / Σ w q² for the codes of a start takes (Σ w x q)² / Σ w q² from the error.
  struct ScaleFit {
    V xq, qq;
    V outermost;  ///< level of the outermost weight at the start
  };
  static HWY_INLINE void keep_better(const Sums& sums, V outermost, ScaleFit& best) {
    const auto better = O::greater(O::mul(O::mul(sums.xq, sums.xq), best.qq), O::mul(O::mul(best.xq, best.xq), sums.qq));
    best.xq = O::select(better, sums.xq, best.xq);
    best.qq = O::select(better, sums.qq, best.qq);
    best.outermost = O::select(better, outermost, best.outermost);
  }
  HWY_INLINE void consider(size_t k, V unit, V outermost, V other, ScaleFit& best) {
    Sums sums, others;
    add_up<Shift::none>(k, O::mul(outermost, unit), unit, O::mul(other, unit), unit, sums, others);
    keep_better(sums, outermost, best);
    keep_better(others, other, best);
  }

  HWY_INLINE void fit_scale(size_t k) {
    fetch_ahead(2 * k, 2 * spans_);
    const V zero = O::set(0), low = load(low_[k]), high = load(high_[k]);
    const bool symmetric = -steps_.lowest == steps_.highest, other_end = !symmetric && grid_.levels.size() <= 16;
    V top = O::select(O::greater(O::sub(zero, low), high), low, high);
    if (symmetric) top = O::sub(zero, O::abs(top));
    const V unit = inverse(top);
    const float wide = grid_.is_even() ? 1 : steps_.highest / 8;  // tables have wider steps
    ScaleFit best = {zero, O::set(1), zero};
    const float first = effort_.first * wide, step = effort_.step * wide;
    const auto place = [&](int i) { return first + step * static_cast<float>(i); };
    if (effort_.starts == 1) keep_better(add_up<Shift::none>(k, O::mul(O::set(steps_.lowest - first), unit), zero), O::set(steps_.lowest - first), best);
    else if (other_end)
      for (int i = 0; i < effort_.starts; ++i) consider(k, unit, O::set(steps_.lowest - place(i)), O::set(steps_.highest + place(i)), best);
    else
      for (int i = 0; i < effort_.starts; i += 2) consider(k, unit, O::set(steps_.lowest - place(i)), O::set(steps_.lowest - place(i + 1)), best);
    float nearer = step;
    for (int zoom = 0; zoom < effort_.zooms; ++zoom) {
      const V centre = best.outermost, distance = O::set(nearer /= 2);
      consider(k, unit, O::sub(centre, distance), O::add(centre, distance), best);
    }
    for (int turn = 0; turn < effort_.turns; ++turn) keep_better(add_up<Shift::none>(k, ratio(best.qq, best.xq), zero), zero, best);
    O::store(O::div(best.xq, best.qq), at(scale_[k]));
    O::store(O::select(O::equal(best.xq, zero), zero, best.qq), at(size_[k]));
  }

  /// x ≈ s q − m by least squares over both; m ≥ 0 where files hold no other. With s = a / n and m = b / n, `gain` / n is taken from the
  /// error.
  struct PairFit {
    V n, a, b, gain, qq;
    V levels;  ///< between the smallest and the largest weight at the start
  };
  HWY_INLINE void keep_better(size_t k, const Sums& sums, V levels, PairFit& best) {
    const V zero = O::set(0), w = load(w_[k]), x = load(x_[k]);
    V n = O::sub(O::mul(w, sums.qq), O::mul(sums.q, sums.q));
    V a = O::sub(O::mul(w, sums.xq), O::mul(x, sums.q)), b = O::sub(O::mul(sums.q, sums.xq), O::mul(sums.qq, x));
    V gain = O::sub(O::mul(a, sums.xq), O::mul(b, x));
    auto usable = O::greater(n, zero);
    if (grid_.min != BlockMin::f16) {
      const auto below = O::greater(zero, b);
      n = O::select(below, sums.qq, n);
      a = O::select(below, sums.xq, a);
      gain = O::select(below, O::mul(sums.xq, sums.xq), gain);
      b = O::select(below, zero, b);
    }
    usable = O::both(usable, O::greater(a, zero));
    const auto better = O::both(usable, O::greater(O::mul(gain, best.n), O::mul(best.gain, n)));
    best.n = O::select(better, n, best.n);
    best.a = O::select(better, a, best.a);
    best.b = O::select(better, b, best.b);
    best.gain = O::select(better, gain, best.gain);
    best.qq = O::select(better, sums.qq, best.qq);
    best.levels = O::select(better, levels, best.levels);
  }

  HWY_INLINE void fit_scale_and_min(size_t k) {
    fetch_ahead(2 * k, 2 * spans_);
    const V zero = O::set(0);
    V low = load(low_[k]);
    if (grid_.min != BlockMin::f16) low = O::min(low, zero);
    const V unit = inverse(O::sub(load(high_[k]), low)), offset = O::mul(O::sub(zero, low), unit);
    // Of s = 0, where m is −low.
    PairFit best = {O::set(1), zero, O::sub(zero, low), O::mul(low, O::sub(O::mul(O::set(2), load(x_[k])), O::mul(low, load(w_[k])))), zero, zero};
    const auto consider = [&](V levels, V others) {
      Sums sums, other_sums;
      add_up<Shift::given>(k, O::mul(levels, unit), O::mul(levels, offset), O::mul(others, unit), O::mul(others, offset), sums, other_sums);
      keep_better(k, sums, levels, best);
      keep_better(k, other_sums, others, best);
    };
    for (int i = 0; i < effort_.starts; i += 2) {
      const float near = steps_.highest + effort_.first + effort_.step * static_cast<float>(i);
      consider(O::set(near), O::set(near + effort_.step));
    }
    float nearer = effort_.step;
    for (int zoom = 0; zoom < effort_.zooms; ++zoom) {
      const V centre = best.levels, distance = O::set(nearer /= 2);
      consider(O::sub(centre, distance), O::add(centre, distance));
    }
    for (int turn = 0; turn < effort_.turns; ++turn) keep_better(k, add_up<Shift::given>(k, ratio(best.n, best.a), ratio(best.b, best.a)), zero, best);
    O::store(O::div(best.a, best.n), at(scale_[k]));
    O::store(O::div(best.b, best.n), at(min_[k]));
    O::store(best.qq, at(size_[k]));
  }

  const BlockGrid& grid_;
  const SearchEffort effort_;
  const size_t span_, spans_;
  const LevelSteps& steps_;
  const Levels levels_;
  BlockBatch& batch_;
  const size_t lane_;
  V largest_;                      ///< |x|
  V poison_;                       ///< NaN if a weight is not finite, otherwise 0
  SpanLanes low_, high_, w_, x_;   ///< of the weights of each span: smallest, largest, Σ w, Σ w x
  SpanLanes scale_, min_, size_;   ///< each span's own fit, and Σ w q² of it
  SpanLanes unit_;                 ///< of weights in fixed point, which lie here as batch_.x does, two in each lane
  alignas(64) std::array<int32_t, Levels::fixed_point ? Block::most_weights / 2 * block_lanes : 1> fixed_;
};

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
