// Owns the search for what blocks store, from the fits of their spans: which scales, minima and codes say them best.
#include <algorithm>
#include <array>
#include <limits>

#include "core/dtype.h"
#include "passes/span_search_inl.h"

#if defined(LLMC_BLOCK_LANES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LLMC_BLOCK_LANES_INL
#undef LLMC_BLOCK_LANES_INL
#else
#define LLMC_BLOCK_LANES_INL
#endif

HWY_BEFORE_NAMESPACE();
namespace llmc::HWY_NAMESPACE {
namespace {

template <typename O, typename Levels, ErrorWeights weights>
class BlockSearch : SpanSearch<O, Levels, weights> {
  using Base = SpanSearch<O, Levels, weights>;
  using typename Base::Shift;
  using typename Base::SpanLanes;
  using typename Base::Sums;
  using typename Base::V;
  using Base::add_up, Base::at, Base::fetch_ahead, Base::fit_scale, Base::fit_scale_and_min, Base::for_weights, Base::integer, Base::inverse, Base::load, Base::measure, Base::no_sums, Base::ratio;
  using Base::batch_, Base::effort_, Base::grid_, Base::high_, Base::lane_, Base::largest_, Base::levels_, Base::low_, Base::min_, Base::poison_, Base::scale_, Base::size_, Base::span_, Base::spans_, Base::steps_, Base::w_, Base::x_;

 public:
  BlockSearch(const GgufTypeInfo& type, const LevelSteps& steps, BlockBatch& batch, size_t lane)
      : Base(type, steps, batch, lane) {}

  HWY_INLINE void run() {
    const V one = O::set(1), zero = O::set(0);
    O::store(one, at(batch_.d));
    O::store(zero, at(batch_.dmin));
    for (size_t k = 0; k < spans_; ++k) {
      O::store(one, at(batch_.scales[k]));
      O::store(grid_.min == BlockMin::none ? zero : one, at(batch_.mins[k]));
      measure(k);
    }
    O::store(O::add(largest_, poison_), at(batch_.largest));
    switch (grid_.scale) {
      case BlockScale::f16: grid_.min == BlockMin::none ? find_scale() : find_scale_and_min(); break;
      case BlockScale::integer: grid_.min == BlockMin::none ? find_scales() : find_scales_and_mins(); break;
      case BlockScale::e8m0: find_powers(); break;
      case BlockScale::e4m3: find_small_floats(); break;
    }
    round();
  }

 private:
  // What files can hold.

  HWY_INLINE void find_scale() {
    fit_scale(0);
    O::store(O::to_f16(load(scale_[0])), at(batch_.d));
  }

  HWY_INLINE void find_scale_and_min() {
    fit_scale_and_min(0);
    const V d = O::to_f16(load(scale_[0])), factor = inverse(d), w = load(w_[0]), min = load(min_[0]);
    const Sums sums = this->template add_up<Shift::given>(0, factor, O::mul(min, factor));  // the least-squares minimum for the rounded scale
    O::store(d, at(batch_.d));
    O::store(O::to_f16(O::select(O::greater(w, O::set(0)), O::div(O::sub(O::mul(d, sums.q), load(x_[0])), w), min)), at(batch_.dmin));
  }

  /// Of d = largest / n for n near the largest integer: the one whose multiples are nearest to the wanted values, in f16.
  HWY_INLINE V choose_unit(SpanLanes& wanted, SpanLanes& weight, int least, int most) {
    const V zero = O::set(0), lowest = O::set(static_cast<float>(least)), highest = O::set(static_cast<float>(most));
    V largest = zero;
    for (size_t k = 0; k < spans_; ++k) {
      const V value = load(wanted[k]);
      largest = O::select(O::greater(O::abs(value), O::abs(largest)), value, largest);
    }
    const auto end = static_cast<float>(least < 0 ? least : most);  // the largest goes where there is most room
    V best = zero, best_cost = O::set(std::numeric_limits<float>::infinity());
    for (int n = 0; n < (most > 63 ? 2 : 5); ++n) {
      const V unit = O::to_f16(O::mul(largest, O::set(1 / (end * (1 - 0.04f * static_cast<float>(n)))))), factor = inverse(unit);
      V cost = zero;
      for (size_t k = 0; k < spans_; ++k) {
        const V value = load(wanted[k]), difference = O::sub(O::mul(unit, integer(O::mul(value, factor), lowest, highest)), value);
        cost = O::fma(load(weight[k]), O::mul(difference, difference), cost);
      }
      const auto better = O::both(O::greater(O::abs(unit), zero), O::greater(best_cost, cost));
      best = O::select(better, unit, best);
      best_cost = O::select(better, cost, best_cost);
    }
    return best;
  }
  /// Integers nearest to wanted / unit.
  HWY_INLINE void choose_integers(SpanLanes& wanted, V unit, int least, int most, SpanLanes& integers) {
    const V factor = inverse(unit);
    for (size_t k = 0; k < spans_; ++k) O::store(integer(O::mul(load(wanted[k]), factor), O::set(static_cast<float>(least)), O::set(static_cast<float>(most))), at(integers[k]));
  }

  HWY_INLINE void find_scales() {
    for (size_t k = 0; k < spans_; ++k) fit_scale(k);
    V d = choose_unit(scale_, size_, grid_.lowest_scale, grid_.highest_scale);
    choose_integers(scale_, d, grid_.lowest_scale, grid_.highest_scale, batch_.scales);
    for (int turn = 0; turn < effort_.block_turns; ++turn) {
      const Sums sums = choose_scales(d);
      const V wanted = O::to_f16(ratio(sums.xq, sums.qq));
      d = O::select(O::equal(wanted, O::set(0)), d, wanted);
    }
    if constexpr (!Levels::fixed_point) choose_scales(d);  // after the last d it gains next to nothing there
    O::store(d, at(batch_.d));
  }

  /// Σ w (x − s q)² − Σ w x²
  static HWY_INLINE V cost(const Sums& sums, V scale) { return O::mul(scale, O::sub(O::mul(scale, sums.qq), O::mul(O::set(2), sums.xq))); }

  /// Each span's integer, one step down or up if that is better; with l = scale · q, Σ w l² and Σ w x l at the choice.
  HWY_INLINE Sums choose_scales(V d) {
    const V zero = O::set(0), least = O::set(static_cast<float>(grid_.lowest_scale)), most = O::set(static_cast<float>(grid_.highest_scale)), one = O::set(1);
    Sums total = no_sums();
    for (size_t k = 0; k < spans_; ++k) {
      const V now = load(batch_.scales[k]), down = O::max(O::sub(now, one), least), up = O::min(O::add(now, one), most);
      const V scale = O::mul(d, now), lower = O::mul(d, down), upper = O::mul(d, up);
      V chosen = now;
      Sums best = this->template add_up<Shift::none>(k, inverse(scale), zero);
      V best_cost = cost(best, scale);
      const auto keep = [&](const Sums& sums, V step, V step_scale) {
        const V step_cost = cost(sums, step_scale);
        const auto better = O::greater(best_cost, step_cost);
        best_cost = O::select(better, step_cost, best_cost);
        chosen = O::select(better, step, chosen);
        best = {zero, O::select(better, sums.qq, best.qq), O::select(better, sums.xq, best.xq)};
      };
      if constexpr (Levels::fixed_point) {  // the step towards the least-squares scale for the codes
        const auto grows = O::greater(O::mul(best.xq, d), O::mul(O::mul(scale, best.qq), d));
        const V next = O::select(grows, up, down), next_scale = O::mul(d, next);
        keep(this->template add_up<Shift::none>(k, inverse(next_scale), zero), next, next_scale);
      } else {
        Sums lower_sums, upper_sums;
        this->template add_up<Shift::none>(k, inverse(lower), zero, inverse(upper), zero, lower_sums, upper_sums);
        keep(lower_sums, down, lower);
        keep(upper_sums, up, upper);
      }
      O::store(chosen, at(batch_.scales[k]));
      total.xq = O::fma(chosen, best.xq, total.xq);
      total.qq = O::fma(O::mul(chosen, chosen), best.qq, total.qq);
    }
    return total;
  }

  HWY_INLINE void find_scales_and_mins() {
    for (size_t k = 0; k < spans_; ++k) fit_scale_and_min(k);
    const int most = grid_.highest_scale;
    V d = choose_unit(scale_, size_, 0, most), dmin = choose_unit(min_, w_, 0, most);
    choose_integers(scale_, d, 0, most, batch_.scales);
    choose_integers(min_, dmin, 0, most, batch_.mins);
    for (int turn = 0; turn < effort_.block_turns; ++turn) refit(choose_scales_and_mins(d, dmin), d, dmin);
    choose_scales_and_mins(d, dmin);
    O::store(d, at(batch_.d));
    O::store(dmin, at(batch_.dmin));
  }

  /// Over a block, with l = scale · q and m = min: Σ w l², Σ w l m, Σ w m², Σ w x l, Σ w x m.
  struct PairSums {
    V ll, lm, mm, xl, xm;
  };
  /// d and dmin of a block by least squares, its codes and integers given.
  static HWY_INLINE void refit(const PairSums& sums, V& d, V& dmin) {
    const V zero = O::set(0), product = O::mul(sums.ll, sums.mm), determinant = O::sub(product, O::mul(sums.lm, sums.lm)), n = inverse(determinant);
    const auto regular = O::greater(determinant, O::mul(O::set(1e-4f), product));
    const V new_d = O::to_f16(O::select(regular, O::mul(O::sub(O::mul(sums.mm, sums.xl), O::mul(sums.lm, sums.xm)), n), ratio(sums.xl, sums.ll)));
    const V new_dmin = O::to_f16(O::select(regular, O::mul(O::sub(O::mul(sums.lm, sums.xl), O::mul(sums.ll, sums.xm)), n), zero));
    const auto usable = O::both(O::both(O::greater(new_d, zero), O::either(O::greater(new_dmin, zero), O::equal(new_dmin, zero))), O::either(regular, O::equal(sums.mm, zero)));
    d = O::select(usable, new_d, d);
    dmin = O::select(usable, new_dmin, dmin);
  }

  /// Of a span with a scale: the best integer for the minimum, and Σ w (x − x̂)² − Σ w x².
  struct MinChoice {
    V steps, cost;
  };
  HWY_INLINE MinChoice choose_min(size_t k, const Sums& sums, V scale, V dmin, V dmin_inverse) {
    const V w = load(w_[k]), x = load(x_[k]), over = O::sub(O::mul(scale, sums.q), x);  // Σ w (s q − x)
    const V steps = integer(O::mul(O::mul(over, dmin_inverse), inverse(w)), O::set(0), O::set(static_cast<float>(grid_.highest_scale))), m = O::mul(dmin, steps);
    const V two = O::set(2);
    return {steps, O::fma(scale, O::sub(O::mul(scale, sums.qq), O::mul(two, sums.xq)), O::mul(m, O::sub(O::mul(m, w), O::mul(two, over))))};
  }

  /// Each span's integers: the scale's one step down or up if that is better, with the best minimum for the codes that result.
  HWY_INLINE PairSums choose_scales_and_mins(V d, V dmin) {
    const V zero = O::set(0), most = O::set(static_cast<float>(grid_.highest_scale)), one = O::set(1), dmin_inverse = inverse(dmin);
    PairSums total = {zero, zero, zero, zero, zero};
    for (size_t k = 0; k < spans_; ++k) {
      const V now = load(batch_.scales[k]), min = O::mul(dmin, load(batch_.mins[k]));
      V chosen = now, chosen_min = zero, best_cost = zero;
      Sums best = no_sums();
      const auto keep = [&](const Sums& sums, V step, V scale) {
        const MinChoice choice = choose_min(k, sums, scale, dmin, dmin_inverse);
        const auto better = O::greater(best_cost, choice.cost);
        best_cost = O::select(better, choice.cost, best_cost);
        chosen = O::select(better, step, chosen);
        chosen_min = O::select(better, choice.steps, chosen_min);
        best = {O::select(better, sums.q, best.q), O::select(better, sums.qq, best.qq), O::select(better, sums.xq, best.xq)};
      };
      const V down = O::max(O::sub(now, one), zero), up = O::min(O::add(now, one), most);
      const V scale = O::mul(d, now), lower = O::mul(d, down), upper = O::mul(d, up);
      const V factor = inverse(scale), lower_factor = inverse(lower), upper_factor = inverse(upper);
      const Sums sums = this->template add_up<Shift::given>(k, factor, O::mul(min, factor));
      const MinChoice choice = choose_min(k, sums, scale, dmin, dmin_inverse);
      best = sums;
      chosen_min = choice.steps;
      best_cost = choice.cost;
      Sums lower_sums, upper_sums;
      this->template add_up<Shift::given>(k, lower_factor, O::mul(min, lower_factor), upper_factor, O::mul(min, upper_factor), lower_sums, upper_sums);
      keep(lower_sums, down, lower);
      keep(upper_sums, up, upper);
      O::store(chosen, at(batch_.scales[k]));
      O::store(chosen_min, at(batch_.mins[k]));
      const V w = load(w_[k]), x = load(x_[k]);
      total.ll = O::fma(O::mul(chosen, chosen), best.qq, total.ll);
      total.lm = O::fma(O::mul(chosen, chosen_min), best.q, total.lm);
      total.mm = O::fma(O::mul(chosen_min, chosen_min), w, total.mm);
      total.xl = O::fma(chosen, best.xq, total.xl);
      total.xm = O::fma(chosen_min, x, total.xm);
    }
    return total;
  }

  /// Takes a span's scale if that lowers the error.
  HWY_INLINE void try_scale(size_t k, V scale, V& best, V& best_cost) {
    const Sums sums = this->template add_up<Shift::none>(k, inverse(scale), O::set(0));
    const V scale_cost = cost(sums, scale);
    const auto better = O::greater(best_cost, scale_cost);
    best = O::select(better, scale, best);
    best_cost = O::select(better, scale_cost, best_cost);
  }
  HWY_INLINE V size_of(size_t k) { return O::max(O::sub(O::set(0), load(low_[k])), load(high_[k])); }
  static HWY_INLINE V no_cost_yet() { return O::set(std::numeric_limits<float>::infinity()); }

  /// The power of two with which the largest weight is among the levels, and its neighbours.
  HWY_INLINE void find_powers() {
    const V least = O::set(0x1p-100f);  // for spans of zeros
    for (size_t k = 0; k < spans_; ++k) {
      const V power = O::power_below(O::div(O::max(size_of(k), least), O::set(steps_.highest)));
      V best = power, best_cost = no_cost_yet();
      for (float factor : {1.0f, 2.0f, 0.5f}) try_scale(k, O::mul(power, O::set(factor)), best, best_cost);
      O::store(best, at(batch_.scales[k]));
    }
  }

  /// The 8-bit float with which the largest weight is the highest level, and those around it.
  HWY_INLINE void find_small_floats() {
    for (size_t k = 0; k < spans_; ++k) {
      Lanes wanted, scale;
      O::store(O::div(size_of(k), O::set(steps_.highest / 2)), wanted.data());
      V best = O::set(0), best_cost = no_cost_yet();
      for (int change : {0, -1, 1, -2, 2, 3, 4, 5}) {  // 5: half as much again, if the largest weight is the next level's
        for (size_t lane = 0; lane < O::lanes; ++lane) scale[lane] = f8_e4m3_to_f32(static_cast<uint8_t>(std::clamp(f32_to_f8_e4m3(wanted[lane]) + change, 0, 0x7e))) / 2;
        try_scale(k, O::load(scale.data()), best, best_cost);
      }
      O::store(best, at(batch_.scales[k]));
    }
  }

  /// Codes of the levels nearest to (x + min) / scale. A scale of 0 means the level nearest to 0.
  HWY_INLINE void round() {
    const V d = load(batch_.d), dmin = load(batch_.dmin);
    for (size_t k = 0; k < spans_; ++k) {
      fetch_ahead(2 * k + 1, 2 * spans_);
      const V factor = inverse(O::mul(d, load(batch_.scales[k]))), offset = O::mul(O::mul(dmin, load(batch_.mins[k])), factor);
      uint8_t* codes = batch_.codes + k * span_ * block_lanes + lane_;
      for_weights(k, [&](V x, V) {
        O::store_codes(grid_.min == BlockMin::none ? levels_.biased_code(x, factor) : levels_.biased_code(x, factor, offset), codes);
        codes += block_lanes;
      });
    }
  }
};

template <typename O, typename Levels, ErrorWeights weights>
HWY_INLINE void search_with(const GgufTypeInfo& type, const LevelSteps& steps, BlockBatch& batch) {
  for (size_t lane = 0; lane < block_lanes; lane += O::lanes) BlockSearch<O, Levels, weights>(type, steps, batch, lane).run();
}

template <typename O>
void search_lanes(const GgufTypeInfo& type, BlockBatch& batch, ErrorWeights weights) {
  const LevelSteps steps(type.grid);
  const bool given = weights == ErrorWeights::given;
  const bool fixed_point = steps.even && !given && type.grid.min == BlockMin::none && type.grid.levels.size() > 4 && type.grid.levels.size() <= 16;
  if (fixed_point) search_with<O, FixedPointLevels<O>, ErrorWeights::ones>(type, steps, batch);
  else if (steps.even) given ? search_with<O, EvenLevels<O>, ErrorWeights::given>(type, steps, batch) : search_with<O, EvenLevels<O>, ErrorWeights::ones>(type, steps, batch);
  else given ? search_with<O, TableLevels<O>, ErrorWeights::given>(type, steps, batch) : search_with<O, TableLevels<O>, ErrorWeights::ones>(type, steps, batch);
}

}  // namespace
}  // namespace llmc::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
