#include "passes/sparsegpt.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "passes/compensation_tile.h"

namespace llmc {
namespace {

/// Columns whose mask is chosen together: whole groups or blocks.
int64_t stretch_of(const SparsityPattern& pattern) {
  const int64_t period = std::max(pattern.group, pattern.block_cols);
  return period <= 1 ? CompensationTile::block : CompensationTile::block / period * period;
}

/// The recursion over a whole matrix. `keep(row, column, weight)` gives the value of a weight that stays, and is told of those
/// that go by `drop(row, column)`.
template <typename Keep, typename Drop>
class SparseCompensation {
 public:
  SparseCompensation(ConstMatrixView weights, const HessianFactor& factor, std::span<const float> mean_square, const SparsityTarget& target, Keep keep, Drop drop)
      : target_(target), upper_(factor.upper.view()), rows_(weights.rows), cols_(weights.cols), keep_(keep), drop_(drop), scales_(static_cast<size_t>(weights.cols)) {
    assert(std::ranges::is_sorted(factor.order) && target.scope != RankScope::global);
    mask_ = {.rows = rows_, .cols = cols_, .gone = std::vector<uint8_t>(static_cast<size_t>(rows_ * cols_))};
    for (int64_t i = 0; i < cols_; ++i) scales_[static_cast<size_t>(i)] = mean_square[static_cast<size_t>(i)] > 0 ? 1 / upper_.row(i)[i] : 0;
    for (int64_t first = 0; first < rows_; first += CompensationTile::lanes) tiles_.emplace_back(weights, factor.order, first);
  }

  void run() {
    const int64_t stretch = stretch_of(target_.pattern);
    for (int64_t begin = 0; begin < cols_; begin += stretch) {
      const int64_t end = std::min(cols_, begin + stretch);
      if (!target_.pattern.is_n_of_m()) choose(begin, end);
      parallel_pieces(static_cast<int64_t>(tiles_.size()), 1, [&](int64_t first, int64_t) { finish(tiles_[static_cast<size_t>(first)], begin, end); });
    }
  }

  Mask& mask() { return mask_; }
  Matrix values() const {
    Matrix values(rows_, cols_);
    for (const CompensationTile& tile : tiles_)
      for (int64_t i = 0; i < cols_; ++i)
        for (int64_t lane = 0; lane < tile.rows(); ++lane) values.row(tile.first_row() + lane)[i] = tile.column(i)[lane];
    return values;
  }

 private:
  /// Root of w² / [H⁻¹]² for some columns of a tile's rows.
  void score(const CompensationTile& tile, int64_t begin, int64_t end, MatrixView scores) const {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t lane = 0; lane < tile.rows(); ++lane) scores.row(lane)[i - begin] = tile.column(i)[lane] * scales_[static_cast<size_t>(i)];
  }

  void copy(const Mask& part, int64_t row, int64_t column) {
    for (int64_t r = 0; r < part.rows; ++r) std::copy_n(part.row(r), part.cols, mask_.row(row + r) + column);
  }

  /// Units of the first columns that are to be gone.
  int64_t gone_before(int64_t column) const { return share_of(target_.sparsity, ranked_units(target_.pattern, target_.scope, rows_, column)); }

  void choose(int64_t begin, int64_t end) {
    Matrix scores(rows_, end - begin);
    parallel_pieces(static_cast<int64_t>(tiles_.size()), 1, [&](int64_t first, int64_t) {
      const CompensationTile& tile = tiles_[static_cast<size_t>(first)];
      score(tile, begin, end, scores.view().row_range(tile.first_row(), tile.rows()));
    });
    copy(choose_mask(scores.view(), target_.pattern, target_.scope, gone_before(end) - gone_before(begin)), 0, begin);
  }

  void finish(CompensationTile& tile, int64_t begin, int64_t end) {
    const int64_t group = target_.pattern.group;
    tile.finish_columns(upper_, begin, end, [&](int64_t i, int64_t lane, float weight) {
      if (lane == 0 && group > 0 && i % group == 0) {
        Matrix scores(tile.rows(), group);
        score(tile, i, i + group, scores.view());
        copy(choose_mask(scores.view(), target_.pattern, RankScope::row, 0), tile.first_row(), i);
      }
      const int64_t row = tile.first_row() + lane;
      if (!mask_.row(row)[i]) return keep_(row, i, weight);
      drop_(row, i);
      return 0.0f;
    });
  }

  const SparsityTarget& target_;
  ConstMatrixView upper_;
  int64_t rows_;
  int64_t cols_;
  Keep keep_;
  Drop drop_;
  std::vector<float> scales_;  ///< 1 / [H⁻¹]; 0 for inputs that are always 0
  std::vector<CompensationTile> tiles_;
  Mask mask_;
};

}  // namespace

PrunedMatrix prune_sparsegpt(ConstMatrixView weights, const HessianFactor& factor, std::span<const float> mean_square, const SparsityTarget& target) {
  SparseCompensation recursion(weights, factor, mean_square, target, [](int64_t, int64_t, float weight) { return weight; }, [](int64_t, int64_t) {});
  recursion.run();
  return {.values = recursion.values(), .mask = std::move(recursion.mask())};
}

SparseRounding quantize_sparsegpt(ConstMatrixView weights, const HessianFactor& factor, std::span<const float> mean_square, const SparsityTarget& target, const Scheme& scheme, DType scale_dtype, const RangeOptions& range, const std::string& where) {
  QuantizedMatrix rounded = make_quantized_matrix(scheme, scale_dtype, weights.rows, weights.cols, where);
  RangeOptions with_zero = range;
  with_zero.zero = ZeroLevel::kept;
  choose_grids(weights, {}, with_zero, where, rounded);
  const auto code_at = [&](int64_t row, int64_t column) -> int8_t& { return rounded.codes[static_cast<size_t>(row * rounded.cols + column)]; };
  SparseCompensation recursion(
      weights, factor, mean_square, target,
      [&](int64_t row, int64_t column, float weight) {
        const Grid grid = get_grid(rounded, rounded.scale_index(row, column));
        const float code = grid.code(weight);
        code_at(row, column) = static_cast<int8_t>(code);
        return grid.value(code);
      },
      [&](int64_t row, int64_t column) { code_at(row, column) = static_cast<int8_t>(rounded.zero_code(rounded.scale_index(row, column))); });
  recursion.run();
  return {.rounded = std::move(rounded), .mask = std::move(recursion.mask())};
}

}  // namespace llmc
