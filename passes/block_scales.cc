#include "passes/block_scales.h"

#include <algorithm>
#include <cmath>

#include "core/dtype.h"

namespace llmc {
namespace {

float to_f16(float value) { return round_to(DType::f16, value); }
float ratio(float a, float b) { return b == 0 ? 0 : a / b; }

/// How far a search goes: starts at which the outermost weight is (levels + offset) steps away, then turns of codes and scales.
struct Effort {
  float first = 0, step = 0;
  int starts = 0;
  int turns = 0;        ///< of a span's own fit
  int block_turns = 0;  ///< of integers and d
};

Effort effort_of(const BlockGrid& grid) {
  const size_t levels = grid.levels.size();
  if (levels > 64) return {.first = 0, .step = 1, .starts = 1, .turns = 1, .block_turns = 0};
  if (levels > 32) return {.first = -0.6f, .step = 0.3f, .starts = 5, .turns = 1, .block_turns = 1};
  if (levels > 16) return {.first = -0.9f, .step = 0.3f, .starts = 7, .turns = 1, .block_turns = 1};
  if (levels > 8) return {.first = -0.9f, .step = 0.3f, .starts = 9, .turns = 2, .block_turns = 2};
  return {.first = -0.9f, .step = 0.3f, .starts = 8, .turns = 2, .block_turns = 3};
}

class Search {
 public:
  Search(const GgufTypeInfo& type, SpanBatch& batch, const SpanKernels& kernels)
      : grid_(type.grid), spans_(static_cast<size_t>(type.spans())), blocks_(static_cast<size_t>(span_lanes) / spans_), levels_(type.grid), effort_(effort_of(type.grid)), batch_(batch), kernels_(kernels) {
    kernels_.measure(batch_, facts_);
  }

  BlockScales run() {
    found_.d.fill(1);
    found_.dmin.fill(0);
    found_.scale.fill(1);
    found_.min.fill(grid_.min == BlockMin::none ? 0.0f : 1.0f);
    switch (grid_.scale) {
      case BlockScale::f16: grid_.min == BlockMin::none ? find_scale() : find_scale_and_min(); break;
      case BlockScale::integer: grid_.min == BlockMin::none ? find_scales() : find_scales_and_mins(); break;
      case BlockScale::e8m0: find_power(); break;
      case BlockScale::e4m3: find_small_floats(); break;
    }
    round();
    return found_;
  }

 private:
  float lowest() const { return grid_.levels[static_cast<size_t>(grid_.lowest_code)]; }
  float highest() const { return grid_.levels[static_cast<size_t>(grid_.highest_code)]; }

  // A span's own fit, with scales (and minima) that are any floats.

  /// x ≈ s q: from each start the codes, then s = Σ w x q / Σ w q², which takes (Σ w x q)² / Σ w q² from the error.
  void fit_scale() {
    Lanes top, inverse, gain;
    gain.fill(0);
    scale_.fill(0);
    min_.fill(0);
    for (size_t k = 0; k < span_lanes; ++k) top[k] = -facts_.low[k] > facts_.high[k] ? facts_.low[k] : facts_.high[k];
    const auto consider = [&] {
      SpanSums sums;
      kernels_.add_up(batch_, levels_, inverse, min_, sums);
      for (size_t k = 0; k < span_lanes; ++k) {
        const float taken = sums.qq[k] > 0 ? sums.xq[k] / sums.qq[k] * sums.xq[k] : 0;
        if (!(taken > gain[k])) continue;
        gain[k] = taken;
        scale_[k] = sums.xq[k] / sums.qq[k];
        size_[k] = sums.qq[k];
      }
    };
    const bool symmetric = -lowest() == highest(), other_end = !symmetric && grid_.levels.size() <= 16;
    for (int end = 0; end < (other_end ? 2 : 1); ++end)
      for (int i = 0; i < effort_.starts; ++i) {
        const float offset = (effort_.first + effort_.step * static_cast<float>(i)) * (grid_.is_even() ? 1 : highest() / 8);  // tables have wider steps
        const float outermost = end == 0 ? lowest() - offset : highest() + offset;
        for (size_t k = 0; k < span_lanes; ++k) inverse[k] = ratio(outermost, symmetric ? -std::abs(top[k]) : top[k]);
        consider();
      }
    for (int turn = 0; turn < effort_.turns; ++turn) {
      for (size_t k = 0; k < span_lanes; ++k) inverse[k] = ratio(1, scale_[k]);
      consider();
    }
  }

  /// x ≈ s q − m by least squares over both; m ≥ 0 where files hold no other.
  void fit_scale_and_min() {
    const bool any_min = grid_.min == BlockMin::f16;
    Lanes low, inverse, min, gain;
    gain.fill(0);
    scale_.fill(0);
    for (size_t k = 0; k < span_lanes; ++k) {
      low[k] = any_min ? facts_.low[k] : std::min(facts_.low[k], 0.0f);
      min_[k] = min[k] = -low[k];
      size_[k] = 0;
      gain[k] = 2 * low[k] * facts_.x[k] - low[k] * low[k] * facts_.w[k];  // of s = 0
    }
    const auto consider = [&] {
      SpanSums sums;
      kernels_.add_up(batch_, levels_, inverse, min, sums);
      for (size_t k = 0; k < span_lanes; ++k) {
        const float q = sums.q[k], qq = sums.qq[k], xq = sums.xq[k], w = facts_.w[k], x = facts_.x[k];
        const float determinant = w * qq - q * q;
        if (!(determinant > 0)) continue;
        float s = (w * xq - x * q) / determinant, m = (q * xq - qq * x) / determinant;
        if (m < 0 && !any_min) {
          m = 0;
          s = xq / qq;
        }
        const float taken = 2 * (s * xq - m * x) - (s * s * qq - 2 * s * m * q + m * m * w);
        if (!(s > 0) || !(taken > gain[k])) continue;
        gain[k] = taken;
        scale_[k] = s;
        min_[k] = m;
        size_[k] = qq;
      }
    };
    for (int i = 0; i < effort_.starts; ++i) {
      const float steps = highest() + effort_.first + effort_.step * static_cast<float>(i);
      for (size_t k = 0; k < span_lanes; ++k) inverse[k] = ratio(steps, facts_.high[k] - low[k]);
      consider();
    }
    for (int turn = 0; turn < effort_.turns; ++turn) {
      for (size_t k = 0; k < span_lanes; ++k) {
        inverse[k] = ratio(1, scale_[k]);
        min[k] = min_[k];
      }
      consider();
    }
  }

  // What files can hold.

  void find_scale() {
    fit_scale();
    for (size_t k = 0; k < span_lanes; ++k) found_.d[k] = to_f16(scale_[k]);
  }

  void find_scale_and_min() {
    fit_scale_and_min();
    Lanes inverse, min;
    for (size_t k = 0; k < span_lanes; ++k) {
      found_.d[k] = to_f16(scale_[k]);
      inverse[k] = ratio(1, found_.d[k]);
      min[k] = min_[k];
    }
    SpanSums sums;  // the least-squares minimum for the rounded scale
    kernels_.add_up(batch_, levels_, inverse, min, sums);
    for (size_t k = 0; k < span_lanes; ++k) found_.dmin[k] = to_f16(facts_.w[k] > 0 ? (found_.d[k] * sums.q[k] - facts_.x[k]) / facts_.w[k] : min_[k]);
  }

  /// Of d = largest / n for n near the largest integer: the one whose multiples are nearest to the wanted values, in f16.
  float choose_unit(const Lanes& wanted, const Lanes& weight, size_t first, int most, int least) const {
    float largest = 0;
    for (size_t k = first; k < first + spans_; ++k)
      if (std::abs(wanted[k]) > std::abs(largest)) largest = wanted[k];
    if (largest == 0) return 0;
    const int end = least < 0 ? least : most;  // the largest goes where there is most room
    float best = 0, best_cost = 0;
    for (int n = 0; n < (most > 63 ? 2 : 5); ++n) {
      const float unit = to_f16(largest / (static_cast<float>(end) * (1 - 0.04f * static_cast<float>(n))));
      if (unit == 0) continue;
      float cost = 0;
      for (size_t k = first; k < first + spans_; ++k) {
        const float difference = unit * integer(wanted[k] / unit, least, most) - wanted[k];
        cost += weight[k] * (difference * difference);
      }
      if (best != 0 && !(cost < best_cost)) continue;
      best = unit;
      best_cost = cost;
    }
    return best;
  }
  static float integer(float value, int least, int most) { return std::clamp(std::nearbyint(value), static_cast<float>(least), static_cast<float>(most)); }

  void find_scales() {
    fit_scale();
    const int least = grid_.lowest_scale, most = grid_.highest_scale;
    for (size_t b = 0; b < blocks_; ++b) {
      found_.d[b] = choose_unit(scale_, size_, b * spans_, most, least);
      for (size_t k = b * spans_; k < (b + 1) * spans_; ++k) found_.scale[k] = found_.d[b] == 0 ? 0 : integer(scale_[k] / found_.d[b], least, most);
    }
    for (int turn = 0; turn < effort_.block_turns; ++turn) {
      const SpanSums sums = choose_scales(least, most);
      for (size_t b = 0; b < blocks_; ++b) {
        double xq = 0, qq = 0;
        for (size_t k = b * spans_; k < (b + 1) * spans_; ++k) {
          xq += double{found_.scale[k]} * sums.xq[k];
          qq += double{found_.scale[k]} * found_.scale[k] * sums.qq[k];
        }
        if (const float d = to_f16(static_cast<float>(xq / qq)); qq > 0 && d != 0) found_.d[b] = d;
      }
    }
    choose_scales(least, most);
  }

  /// Each span's integer, one step down or up if that is better; the sums at the choice.
  SpanSums choose_scales(int least, int most) {
    SpanSums best;
    Lanes error, chosen = found_.scale, no_min;
    no_min.fill(0);
    for (int change : {0, -1, 1}) {
      Lanes step, scale, inverse;
      for (size_t k = 0; k < span_lanes; ++k) {
        step[k] = std::clamp(found_.scale[k] + static_cast<float>(change), static_cast<float>(least), static_cast<float>(most));
        scale[k] = found_.d[k / spans_] * step[k];
        inverse[k] = ratio(1, scale[k]);
      }
      SpanSums sums;
      kernels_.add_up(batch_, levels_, inverse, no_min, sums);
      for (size_t k = 0; k < span_lanes; ++k) {
        const float cost = scale[k] * (scale[k] * sums.qq[k] - 2 * sums.xq[k]);
        if (change != 0 && !(cost < error[k])) continue;
        error[k] = cost;
        chosen[k] = step[k];
        best.q[k] = sums.q[k];
        best.qq[k] = sums.qq[k];
        best.xq[k] = sums.xq[k];
      }
    }
    found_.scale = chosen;
    return best;
  }

  void find_scales_and_mins() {
    fit_scale_and_min();
    const int most = grid_.highest_scale;
    for (size_t b = 0; b < blocks_; ++b) {
      found_.d[b] = choose_unit(scale_, size_, b * spans_, most, 0);
      found_.dmin[b] = choose_unit(min_, facts_.w, b * spans_, most, 0);
      for (size_t k = b * spans_; k < (b + 1) * spans_; ++k) {
        found_.scale[k] = found_.d[b] == 0 ? 0 : integer(scale_[k] / found_.d[b], 0, most);
        found_.min[k] = found_.dmin[b] == 0 ? 0 : integer(min_[k] / found_.dmin[b], 0, most);
      }
    }
    for (int turn = 0; turn < effort_.block_turns; ++turn) {
      const SpanSums sums = choose_scales_and_mins(most);
      for (size_t b = 0; b < blocks_; ++b) refit(b, sums);
    }
    choose_scales_and_mins(most);
  }

  /// d and dmin of a block by least squares, its codes and integers given.
  void refit(size_t b, const SpanSums& sums) {
    double ss = 0, sm = 0, mm = 0, xs = 0, xm = 0;
    for (size_t k = b * spans_; k < (b + 1) * spans_; ++k) {
      const double scale = found_.scale[k], min = found_.min[k];
      ss += scale * scale * sums.qq[k];
      sm += scale * min * sums.q[k];
      mm += min * min * facts_.w[k];
      xs += scale * sums.xq[k];
      xm += min * facts_.x[k];
    }
    const double determinant = ss * mm - sm * sm;
    double d = ss > 0 ? xs / ss : 0, dmin = 0;
    if (determinant > 1e-9 * ss * mm) {
      d = (mm * xs - sm * xm) / determinant;
      dmin = (sm * xs - ss * xm) / determinant;
    } else if (mm > 0) {
      return;
    }
    if (!(d > 0) || dmin < 0) return;
    const float new_d = to_f16(static_cast<float>(d)), new_dmin = to_f16(static_cast<float>(dmin));
    if (new_d == 0) return;
    found_.d[b] = new_d;
    found_.dmin[b] = new_dmin;
  }

  /// Each span's integers: the scale's one step down or up if that is better, with the best minimum for the codes that result.
  SpanSums choose_scales_and_mins(int most) {
    SpanSums best;
    Lanes error, chosen = found_.scale, chosen_min = found_.min, min;
    for (size_t k = 0; k < span_lanes; ++k) min[k] = found_.dmin[k / spans_] * found_.min[k];
    for (int change : {0, -1, 1}) {
      Lanes step, scale, inverse;
      for (size_t k = 0; k < span_lanes; ++k) {
        step[k] = std::clamp(found_.scale[k] + static_cast<float>(change), 0.0f, static_cast<float>(most));
        scale[k] = found_.d[k / spans_] * step[k];
        inverse[k] = ratio(1, scale[k]);
      }
      SpanSums sums;
      kernels_.add_up(batch_, levels_, inverse, min, sums);
      for (size_t k = 0; k < span_lanes; ++k) {
        const float s = scale[k], unit = found_.dmin[k / spans_], w = facts_.w[k], q = sums.q[k], x = facts_.x[k];
        const float steps = unit == 0 || !(w > 0) ? 0 : integer((s * q - x) / (w * unit), 0, most);
        const float m = unit * steps;
        const float cost = s * (s * sums.qq[k] - 2 * sums.xq[k]) + m * (m * w + 2 * (x - s * q));
        if (change != 0 && !(cost < error[k])) continue;
        error[k] = cost;
        chosen[k] = step[k];
        chosen_min[k] = steps;
        best.q[k] = q;
        best.qq[k] = sums.qq[k];
        best.xq[k] = sums.xq[k];
      }
    }
    found_.scale = chosen;
    found_.min = chosen_min;
    return best;
  }

  /// Takes each lane's scale if that lowers the error.
  void try_scales(const Lanes& scales, Lanes& error) {
    Lanes no_min, found;
    no_min.fill(0);
    kernels_.round(batch_, levels_, scales, no_min, found);
    for (size_t k = 0; k < span_lanes; ++k) {
      if (!(found[k] < error[k])) continue;
      error[k] = found[k];
      found_.scale[k] = scales[k];
    }
  }
  float largest_of(size_t lane) const { return std::max(-facts_.low[lane], facts_.high[lane]); }
  static Lanes no_errors_yet() {
    Lanes error;
    error.fill(std::numeric_limits<float>::infinity());
    return error;
  }

  /// The power of two with which the largest weight is among the levels, and its neighbours.
  void find_power() {
    constexpr float least = 0x1p-100f;  // for spans of zeros
    Lanes error = no_errors_yet();
    for (int change : {0, 1, -1}) {
      Lanes scales;
      for (size_t k = 0; k < span_lanes; ++k) scales[k] = std::ldexp(1.0f, change + std::ilogb(std::max(largest_of(k), least) / highest()));
      try_scales(scales, error);
    }
  }

  /// The 8-bit float with which the largest weight is the highest level, and those around it.
  void find_small_floats() {
    Lanes error = no_errors_yet();
    for (int change : {0, -1, 1, -2, 2, 3, 4, 5}) {  // 5: half as much again, if the largest weight is the next level's
      Lanes scales;
      for (size_t k = 0; k < span_lanes; ++k) {
        const int bits = f32_to_f8_e4m3(2 * largest_of(k) / highest()) + change;
        scales[k] = f8_e4m3_to_f32(static_cast<uint8_t>(std::clamp(bits, 0, 0x7e))) / 2;
      }
      try_scales(scales, error);
    }
  }

  void round() {
    Lanes scale, min, error;
    for (size_t k = 0; k < span_lanes; ++k) {
      scale[k] = found_.d[k / spans_] * found_.scale[k];
      min[k] = found_.dmin[k / spans_] * found_.min[k];
    }
    kernels_.round(batch_, levels_, scale, min, error);
  }

  const BlockGrid& grid_;
  size_t spans_;   ///< of a block
  size_t blocks_;
  LevelSteps levels_;
  Effort effort_;
  SpanBatch& batch_;
  const SpanKernels& kernels_;
  SpanFacts facts_;
  Lanes scale_, min_;  ///< each span's own fit
  Lanes size_ = {};    ///< Σ w q² of it
  BlockScales found_;
};

}  // namespace

BlockScales find_block_scales(const GgufTypeInfo& type, SpanBatch& batch, const SpanKernels& kernels) { return Search(type, batch, kernels).run(); }

}  // namespace llmc
