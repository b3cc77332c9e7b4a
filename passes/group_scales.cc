#include "passes/group_scales.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/parallel.h"
#include "model/matmul.h"
#include "passes/grid.h"

namespace llmc {
namespace {

/// One group of up to `lanes` rows, and the best grid of each.
class GroupTile {
 public:
  static constexpr int64_t lanes = PackedMatrix::tile_rows;

  GroupTile(QuantizedMatrix& rounded, ConstMatrixView weights, ConstMatrixView moment, int64_t first_row, int64_t first_col)
      : rounded_(rounded), weights_(weights), moment_(moment), first_row_(first_row), first_col_(first_col), difference_(weights.rows, weights.cols), product_(weights.rows, weights.cols) {
    least_.fill(INFINITY);
    for (int64_t lane = 0; lane < weights.rows; ++lane) start_[at(lane)] = get_grid(rounded, scale_index(lane));
    best_ = start_;
  }

  void search() {
    Shares shares;
    shares.fill(1);
    consider(shares);
    for (int step = -12; step <= 12; ++step) {
      shares.fill(1 + 0.025f * static_cast<float>(step));
      if (step != 0) consider(shares);
    }
    const Shares centre = best_share_;
    for (float step : {-0.0125f, 0.0125f}) {
      for (size_t lane = 0; lane < shares.size(); ++lane) shares[lane] = centre[lane] + step;
      consider(shares);
    }
    store();
  }

 private:
  using Shares = std::array<float, lanes>;  ///< of the scale at the start
  static size_t at(int64_t lane) { return static_cast<size_t>(lane); }
  int64_t scale_index(int64_t lane) const { return rounded_.scale_index(first_row_ + lane, first_col_); }

  void consider(const Shares& shares) {
    std::array<Grid, lanes> grids = start_;
    for (int64_t lane = 0; lane < weights_.rows; ++lane) {
      Grid& grid = grids[at(lane)];
      if (shares[at(lane)] != 1) grid.scale = stored_scales(rounded_)(grid.scale * shares[at(lane)]);
      const auto values = weights_.row_span(lane), difference = std::span<const float>(difference_.view().row_span(lane));
      grid.round(values, difference_.view().row_span(lane));
      for (size_t i = 0; i < values.size(); ++i) difference_.row(lane)[i] = values[i] - difference[i];
    }
    matmul_list().front().multiply(1, difference_.view(), moment_, Transpose::no, product_.view());
    for (int64_t lane = 0; lane < weights_.rows; ++lane) {
      double error = 0;
      for (int64_t i = 0; i < weights_.cols; ++i) error += double{product_.row(lane)[i]} * difference_.row(lane)[i];
      if (!(error < least_[at(lane)]) || grids[at(lane)].scale == 0 || !std::isfinite(grids[at(lane)].scale)) continue;
      least_[at(lane)] = error;
      best_[at(lane)] = grids[at(lane)];
      best_share_[at(lane)] = shares[at(lane)];
    }
  }

  void store() {
    for (int64_t lane = 0; lane < weights_.rows; ++lane) {
      const Grid& grid = best_[at(lane)];
      if (grid.scale == start_[at(lane)].scale) continue;
      set_grid(rounded_, scale_index(lane), grid);
      int8_t* codes = rounded_.codes.data() + (first_row_ + lane) * rounded_.cols + first_col_;
      for (int64_t i = 0; i < weights_.cols; ++i) codes[i] = static_cast<int8_t>(grid.code(weights_.row(lane)[i]));
    }
  }

  QuantizedMatrix& rounded_;
  ConstMatrixView weights_;  ///< [rows, group]
  ConstMatrixView moment_;   ///< [group, group]
  int64_t first_row_, first_col_;
  Matrix difference_, product_;
  std::array<Grid, lanes> start_, best_;
  Shares best_share_{};
  std::array<double, lanes> least_;
};

}  // namespace

void search_group_scales(QuantizedMatrix& rounded, ConstMatrixView weights, ConstMatrixView second_moment) {
  if (rounded.scheme.granularity != Granularity::group || rounded.scales.empty()) return;
  const int64_t group = rounded.span();
  parallel_pieces(rounded.rows, GroupTile::lanes, [&](int64_t first, int64_t last) {
    for (int64_t begin = 0; begin < rounded.cols; begin += group)
      GroupTile(rounded, weights.row_range(first, last - first).column_range(begin, group), second_moment.row_range(begin, group).column_range(begin, group), first, begin).search();
  });
}

}  // namespace llmc
