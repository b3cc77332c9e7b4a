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

InputAccumulator::InputAccumulator(int64_t in, const ForwardOptions& options) : options_(options), sum_abs_(static_cast<size_t>(in)), sum_(static_cast<size_t>(in)) {
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
        sum_[at] += x.row(r)[c];
        sums_.max_abs[at] = std::max(sums_.max_abs[at], size);
      }
  });
}

void InputAccumulator::add_difference(ConstMatrixView from, ConstMatrixView to, ConstMatrixView x, Matrix& sums, std::vector<double>& means) {
  assert(from.rows == to.rows && from.cols == to.cols && from.rows == x.rows);
  if (sums.empty()) sums = Matrix(from.cols, x.cols), means.resize(static_cast<size_t>(from.cols));
  Matrix difference(from.rows, from.cols);
  parallel_pieces(from.cols, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = 0; r < from.rows; ++r)
      for (int64_t c = first; c < last; ++c) {
        difference.row(r)[c] = to.row(r)[c] - from.row(r)[c];
        means[static_cast<size_t>(c)] += difference.row(r)[c];
      }
  });
  add_weight_gradient(options_.backend, options_.precision, difference.view(), x, sums.view());
}

void InputAccumulator::add(ConstMatrixView x, ConstMatrixView float_x) {
  add(x);
  add_difference(x, float_x, x, sums_.drift_moment, sum_drift_);
}

void InputAccumulator::add_residual(ConstMatrixView x, ConstMatrixView hidden, ConstMatrixView float_hidden) { add_difference(hidden, float_hidden, x, sums_.residual_moment, sum_residual_); }

InputStatistics InputAccumulator::finish(const std::string& where) {
  if (sums_.tokens == 0) throw Error(ErrorKind::input, fmt::format("{}: no calibration token reached it", where));
  for (size_t i = 0; i < sum_abs_.size(); ++i) {
    if (!std::isfinite(sum_abs_[i])) throw Error(ErrorKind::input, fmt::format("{}: channel {}: the calibration activations are not finite", where, i));
    sums_.mean_abs[i] = static_cast<float>(sum_abs_[i] / static_cast<double>(sums_.tokens));
  }
  const float share = 1.0f / static_cast<float>(sums_.tokens);
  for (int64_t i = 0; i < sums_.in(); ++i)
    for (int64_t j = i; j < sums_.in(); ++j) sums_.second_moment.row(i)[j] = sums_.second_moment.row(j)[i] = sums_.second_moment.row(i)[j] * share;
  for (Matrix* moment : {&sums_.drift_moment, &sums_.residual_moment})
    for (float& value : moment->values()) value *= share;
  const auto take_means = [&](const std::vector<double>& sums, std::vector<float>& means) {
    for (double sum : sums) means.push_back(static_cast<float>(sum / static_cast<double>(sums_.tokens)));
  };
  take_means(sum_, sums_.mean);
  take_means(sum_drift_, sums_.drift_mean);
  take_means(sum_residual_, sums_.residual_mean);
  return std::move(sums_);
}

}  // namespace llmc
