#include "calib/input_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "model/linear.h"

namespace llmc {

std::vector<float> InputStatistics::mean_square() const {
  std::vector<float> squares(static_cast<size_t>(in()));
  for (int64_t i = 0; i < in(); ++i) squares[static_cast<size_t>(i)] = second_moment.row(i)[i];
  return squares;
}

InputAccumulator::InputAccumulator(int64_t in, const ForwardOptions& options) : options_(options), sum_abs_(static_cast<size_t>(in)) {
  sums_.second_moment = Matrix(in, in);
  sums_.mean_abs.resize(static_cast<size_t>(in));
  sums_.max_abs.resize(static_cast<size_t>(in));
}

void InputAccumulator::add(ConstMatrixView x) {
  assert(x.cols == sums_.in());
  sums_.tokens += x.rows;
  add_second_moment(options_.backend, options_.precision, x, sums_.second_moment.view());
  parallel_pieces(x.cols, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = 0; r < x.rows; ++r)
      for (int64_t c = first; c < last; ++c) {
        const float size = std::abs(x.row(r)[c]);
        const auto at = static_cast<size_t>(c);
        sum_abs_[at] += size;
        sums_.max_abs[at] = std::max(sums_.max_abs[at], size);
      }
  });
}

void InputAccumulator::add(ConstMatrixView x, ConstMatrixView float_x) {
  assert(x.rows == float_x.rows && x.cols == float_x.cols);
  if (sums_.drift_moment.empty()) sums_.drift_moment = Matrix(x.cols, x.cols);
  add(x);
  Matrix drift(x.rows, x.cols);
  parallel_pieces(x.rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < x.cols; ++c) drift.row(r)[c] = float_x.row(r)[c] - x.row(r)[c];
  });
  add_weight_gradient(options_.backend, options_.precision, drift.view(), x, sums_.drift_moment.view());
}

InputStatistics InputAccumulator::finish(const std::string& where) {
  if (sums_.tokens == 0) throw Error(ErrorKind::input, fmt::format("{}: no calibration token reached it", where));
  for (size_t i = 0; i < sum_abs_.size(); ++i) {
    if (!std::isfinite(sum_abs_[i])) throw Error(ErrorKind::input, fmt::format("{}: channel {}: the calibration activations are not finite", where, i));
    sums_.mean_abs[i] = static_cast<float>(sum_abs_[i] / static_cast<double>(sums_.tokens));
  }
  const float share = 1.0f / static_cast<float>(sums_.tokens);
  for (int64_t i = 0; i < sums_.in(); ++i)
    for (int64_t j = i; j < sums_.in(); ++j) sums_.second_moment.row(i)[j] = sums_.second_moment.row(j)[i] = sums_.second_moment.row(i)[j] * share;
  for (float& value : sums_.drift_moment.values()) value *= share;
  return std::move(sums_);
}

}  // namespace llmc
