#include "passes/block_refinement.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/parallel.h"
#include "model/linear.h"
#include "passes/level_steps.h"

namespace llmc {
namespace {

/// Rows that are worked on together, one in each lane, and columns after which changes are handed on to all others.
constexpr int64_t window = Block::most_weights;

/// `lanes` rows at a time. Matrices are kept as [in, lanes], so that a column of all rows is contiguous.
class GridDescent {
 public:
  static constexpr int64_t lanes = 64;

  GridDescent(BlockMatrix& rounded, ConstMatrixView weights, ConstMatrixView h, int64_t first_row)
      : rounded_(rounded), grid_(rounded.type->grid), levels_(grid_), h_(h), first_row_(first_row), rows_(std::min(lanes, weights.rows - first_row)), gradient_(h.rows, lanes), steps_(window, lanes), units_(window, lanes), curved_(window, lanes) {
    Matrix difference(h.rows, lanes);
    for (int64_t i = 0; i < h.rows; ++i)
      for (int64_t lane = 0; lane < rows_; ++lane) difference.row(i)[lane] = weights.row(first_row + lane)[i] - value(lane, i);
    add_product(h, difference.view(), gradient_.view());
  }

  void refine() {
    for (begin_ = 0; begin_ < h_.rows; begin_ = end_) {
      end_ = std::min(h_.rows, begin_ + window);
      std::ranges::fill(steps_.values(), 0.0f);
      fit_spans();
      fit_blocks();
      descend();
      const ConstMatrixView rows = h_.row_range(begin_, end_ - begin_), taken = steps_.view().row_range(0, end_ - begin_);
      if (begin_ > 0) add_product(rows.column_range(0, begin_), taken, gradient_.view().row_range(0, begin_));
      if (end_ < h_.rows) add_product(rows.column_range(end_, h_.rows - end_), taken, gradient_.view().row_range(end_, h_.rows - end_));
    }
  }

 private:
  /// Moves one figure of each lane that columns [begin, begin + count) depend on linearly: unit(lane, i) is what Ŵ grows by with it.
  /// With z the units: the error falls by 2 δ (z · G) − δ² (z H zᵀ) when the figure grows by δ. stored(x) is the value nearest to
  /// x that files can hold.
  template <typename Unit, typename Figure, typename Stored>
  void fit(int64_t begin, int64_t count, Unit unit, Figure figure, Stored stored) {
    const MatrixView units = units_.view().row_range(0, count), curved = curved_.view().row_range(0, count);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t lane = 0; lane < rows_; ++lane) units.row(i)[lane] = unit(lane, begin + i);
      std::fill_n(curved.row(i), lanes, 0.0f);
    }
    add_product(h_.row_range(begin, count).column_range(begin, count), units, curved);
    float changes[lanes] = {};
    for (int64_t lane = 0; lane < rows_; ++lane) {
      double slope = 0, curvature = 0;
      for (int64_t i = 0; i < count; ++i) {
        slope += double{units.row(i)[lane]} * gradient_.row(begin + i)[lane];
        curvature += double{units.row(i)[lane]} * curved.row(i)[lane];
      }
      if (!(curvature > 0)) continue;
      float& now = figure(lane);
      const float next = stored(static_cast<float>(now + slope / curvature));
      const double change = double{next} - now;
      if (!std::isfinite(next) || !(2 * change * slope > change * change * curvature)) continue;
      changes[lane] = static_cast<float>(change);
      now = next;
    }
    for (int64_t i = 0; i < count; ++i)
      for (int64_t lane = 0; lane < lanes; ++lane) {
        units.row(i)[lane] *= -changes[lane];
        steps_.row(begin - begin_ + i)[lane] += units.row(i)[lane];
      }
    add_product(h_.row_range(begin, count).column_range(begin_, end_ - begin_), units, gradient_.view().row_range(begin_, end_ - begin_));
  }

  /// Figures of spans that are stored as integers or small floats.
  void fit_spans() {
    for (int64_t begin = begin_; begin < end_; begin += grid_.span) {
      const auto figure = [&](std::vector<float>& list) { return [&, begin](int64_t lane) -> float& { return list[static_cast<size_t>(rounded_.span_index(first_row_ + lane, begin))]; }; };
      const auto integer = [&](int least) { return [this, least](float x) { return std::clamp(std::nearbyint(x), static_cast<float>(least), static_cast<float>(grid_.highest_scale)); }; };
      const auto level = [&](int64_t lane, int64_t i) { return block_figure(rounded_.d, lane, i) * level_at(lane, i); };
      if (grid_.scale == BlockScale::integer) fit(begin, grid_.span, level, figure(rounded_.scales), integer(grid_.lowest_scale));
      if (grid_.scale == BlockScale::e4m3) fit(begin, grid_.span, level, figure(rounded_.scales), [](float x) { return x > 0 ? round_to(DType::f8_e4m3, 2 * x) / 2 : 0.0f; });
      if (grid_.min == BlockMin::integer) fit(begin, grid_.span, [&](int64_t lane, int64_t i) { return -block_figure(rounded_.dmin, lane, i); }, figure(rounded_.mins), integer(0));
    }
  }

  /// Figures of blocks, which are stored as f16.
  void fit_blocks() {
    if (grid_.scale != BlockScale::f16 && grid_.scale != BlockScale::integer) return;
    const int64_t count = rounded_.type->block;
    for (int64_t begin = begin_; begin < end_; begin += count) {
      const auto figure = [&](std::vector<float>& list) { return [&, begin](int64_t lane) -> float& { return block_figure(list, lane, begin); }; };
      fit(begin, count, [&](int64_t lane, int64_t i) { return span_figure(rounded_.scales, lane, i) * level_at(lane, i); }, figure(rounded_.d), [](float x) { return round_to(DType::f16, x); });
      if (grid_.min == BlockMin::none) continue;
      const bool any_sign = grid_.min == BlockMin::f16;
      fit(begin, count, [&](int64_t lane, int64_t i) { return -span_figure(rounded_.mins, lane, i); }, figure(rounded_.dmin), [any_sign](float x) { return round_to(DType::f16, any_sign ? x : std::max(x, 0.0f)); });
    }
  }

  void descend() {
    for (int64_t i = begin_; i < end_; ++i) {
      const float curvature = h_.row(i)[i];
      if (!(curvature > 0)) continue;
      float change[lanes] = {};
      float* step = steps_.row(i - begin_);
      for (int64_t lane = 0; lane < rows_; ++lane) {
        const float scale = rounded_.scale(first_row_ + lane, i), min = rounded_.min(first_row_ + lane, i);
        if (scale == 0) continue;
        const float before = scale * level_at(lane, i) - min;
        uint8_t& code = rounded_.codes[static_cast<size_t>((first_row_ + lane) * rounded_.cols + i)];
        code = static_cast<uint8_t>(levels_.code((before + gradient_.row(i)[lane] / curvature + min) / scale));
        change[lane] = before - (scale * levels_.level(code) - min);
        step[lane] += change[lane];
      }
      for (int64_t k = begin_; k < end_; ++k) add_scaled(gradient_.row(k), change, h_.row(i)[k]);
    }
  }

  float& block_figure(std::vector<float>& list, int64_t lane, int64_t i) { return list[static_cast<size_t>(rounded_.block_index(first_row_ + lane, i))]; }
  float span_figure(const std::vector<float>& list, int64_t lane, int64_t i) const { return list[static_cast<size_t>(rounded_.span_index(first_row_ + lane, i))]; }
  float level_at(int64_t lane, int64_t i) const { return levels_.level(rounded_.codes[static_cast<size_t>((first_row_ + lane) * rounded_.cols + i)]); }
  float value(int64_t lane, int64_t i) const { return rounded_.scale(first_row_ + lane, i) * level_at(lane, i) - rounded_.min(first_row_ + lane, i); }

  static void add_scaled(float* to, const float* from, float factor) {
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] += from[lane] * factor;
  }
  /// to [K, lanes] += aᵀ [K, N] · from [N, lanes]
  static void add_product(ConstMatrixView a, ConstMatrixView from, MatrixView to) { add_transposed_product(default_backend(), 1, a, from, to); }

  BlockMatrix& rounded_;
  const BlockGrid& grid_;
  LevelSteps levels_;
  ConstMatrixView h_;
  int64_t first_row_;
  int64_t rows_;
  Matrix gradient_;                ///< [in, lanes]: H (W − Ŵ)ᵀ
  Matrix steps_;                   ///< [window, lanes]: negative changes of Ŵ
  Matrix units_, curved_;          ///< [window, lanes]
  int64_t begin_ = 0, end_ = 0;    ///< of the window
};

}  // namespace

void refine_blocks(BlockMatrix& rounded, ConstMatrixView weights, ConstMatrixView second_moment, int64_t rounds) {
  if (rounds == 0) return;
  assert(window % rounded.type->block == 0);
  parallel_pieces(weights.rows, GridDescent::lanes, [&](int64_t first, int64_t) {
    GridDescent tile(rounded, weights, second_moment, first);
    for (int64_t round = 0; round < rounds; ++round) tile.refine();
  });
}

}  // namespace llmc
