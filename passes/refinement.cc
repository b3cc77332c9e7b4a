#include "passes/refinement.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "model/linear.h"
#include "passes/grid.h"

namespace llmc {
namespace {

/// Rows that are worked on together, one in each lane, and columns after which changes are handed on to all others.
constexpr int64_t block = 128;

/// `lanes` rows at a time. Matrices are kept as [in, lanes], so that a column of all rows is contiguous.
class CodeDescent {
 public:
  static constexpr int64_t lanes = 64;

  CodeDescent(QuantizedMatrix& rounded, ConstMatrixView weights, ConstMatrixView h, const Mask* mask, int64_t first_row)
      : rounded_(rounded), h_(h), mask_(mask), first_row_(first_row), rows_(std::min(lanes, weights.rows - first_row)), gradient_(h.rows, lanes), steps_(std::max(block, rounded.span()), lanes) {
    Matrix difference(h.rows, lanes);
    for (int64_t i = 0; i < h.rows; ++i)
      for (int64_t lane = 0; lane < rows_; ++lane) difference.row(i)[lane] = weights.row(first_row + lane)[i] - grid_at(lane, i).value(code_at(lane, i));
    add_product(h, difference.view(), gradient_.view());
  }

  void fit_scales() {
    const int64_t span = rounded_.span();
    for (int64_t begin = 0; begin < h_.rows; begin += span) {
      // With z = Ŵ / s in the span: the error falls by 2 δ (z · G) − δ² (z H zᵀ) when s grows by δ.
      const MatrixView units = steps_.view().row_range(0, span);
      for (int64_t i = 0; i < span; ++i)
        for (int64_t lane = 0; lane < rows_; ++lane) {
          const Grid grid = grid_at(lane, begin + i);
          units.row(i)[lane] = grid.value(code_at(lane, begin + i)) / grid.scale;
        }
      Matrix curved(span, lanes);
      add_product(h_.row_range(begin, span).column_range(begin, span), units, curved.view());
      float changes[lanes] = {};
      for (int64_t lane = 0; lane < rows_; ++lane) {
        double slope = 0, curvature = 0;
        for (int64_t i = 0; i < span; ++i) {
          slope += double{units.row(i)[lane]} * gradient_.row(begin + i)[lane];
          curvature += double{units.row(i)[lane]} * curved.row(i)[lane];
        }
        if (!(curvature > 0)) continue;
        Grid grid = grid_at(lane, begin);
        const float scale = stored_scales(rounded_)(static_cast<float>(grid.scale + slope / curvature));
        const double change = double{scale} - grid.scale;
        if (!(scale * grid.scale > 0) || !std::isfinite(scale) || !(2 * change * slope > change * change * curvature)) continue;
        changes[lane] = static_cast<float>(change);
        grid.scale = scale;
        set_grid(rounded_, rounded_.scale_index(first_row_ + lane, begin), grid);
      }
      for (int64_t i = 0; i < span; ++i)
        for (int64_t lane = 0; lane < lanes; ++lane) units.row(i)[lane] *= -changes[lane];
      add_product(h_.row_range(begin, span), units, gradient_.view());
    }
  }

  void descend() {
    for (int64_t begin = 0; begin < h_.rows; begin += block) {
      const int64_t end = std::min(h_.rows, begin + block);
      std::ranges::fill(steps_.values(), 0.0f);
      for (int64_t i = begin; i < end; ++i) {
        const float curvature = h_.row(i)[i];
        if (!(curvature > 0)) continue;
        float* step = steps_.row(i - begin);
        for (int64_t lane = 0; lane < rows_; ++lane) {
          step[lane] = 0;
          if (mask_ && mask_->row(first_row_ + lane)[i]) continue;
          const Grid grid = grid_at(lane, i);
          const float before = grid.value(code_at(lane, i));
          const float code = grid.code(before + gradient_.row(i)[lane] / curvature);
          code_at(lane, i) = static_cast<int8_t>(code);
          step[lane] = before - grid.value(code);
        }
        for (int64_t k = begin; k < end; ++k) add_scaled(gradient_.row(k), step, h_.row(i)[k]);
      }
      const ConstMatrixView rows = h_.row_range(begin, end - begin);
      const ConstMatrixView taken = steps_.view().row_range(0, end - begin);
      if (begin > 0) add_product(rows.column_range(0, begin), taken, gradient_.view().row_range(0, begin));
      if (end < h_.rows) add_product(rows.column_range(end, h_.rows - end), taken, gradient_.view().row_range(end, h_.rows - end));
    }
  }

 private:
  int8_t& code_at(int64_t lane, int64_t i) const { return rounded_.codes[static_cast<size_t>((first_row_ + lane) * rounded_.cols + i)]; }
  Grid grid_at(int64_t lane, int64_t i) const { return get_grid(rounded_, rounded_.scale_index(first_row_ + lane, i)); }

  static void add_scaled(float* to, const float* from, float factor) {
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] += from[lane] * factor;
  }
  /// to [K, lanes] += aᵀ [K, N] · from [N, lanes]
  static void add_product(ConstMatrixView a, ConstMatrixView from, MatrixView to) { add_transposed_product(default_backend(), 1, a, from, to); }

  QuantizedMatrix& rounded_;
  ConstMatrixView h_;
  const Mask* mask_;
  int64_t first_row_;
  int64_t rows_;
  Matrix gradient_;  ///< [in, lanes]: H (W − Ŵ)ᵀ
  Matrix steps_;     ///< [a span or a block, lanes]: negative changes of Ŵ
};

}  // namespace

void refine_rounding(QuantizedMatrix& rounded, ConstMatrixView weights, ConstMatrixView second_moment, int64_t rounds, const Mask* mask) {
  if (rounds == 0) return;
  const bool fits_scales = rounded.scheme.granularity != Granularity::tensor && rounded.scheme.grid != GridKind::codebook;
  parallel_pieces(weights.rows, CodeDescent::lanes, [&](int64_t first, int64_t) {
    CodeDescent tile(rounded, weights, second_moment, mask, first);
    for (int64_t round = 0; round < rounds; ++round) {
      if (fits_scales) tile.fit_scales();
      tile.descend();
    }
  });
}

}  // namespace llmc
