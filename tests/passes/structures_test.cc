#include "passes/structures.h"

#include <Eigen/Dense>

#include <algorithm>
#include <numeric>

#include "passes/hessian.h"
#include "tests/catch.h"
#include "tests/support.h"

namespace llmc {
namespace {

using MatrixF64 = Eigen::MatrixXd;

MatrixF64 to_doubles(ConstMatrixView from) {
  MatrixF64 result(from.rows, from.cols);
  for (int64_t r = 0; r < from.rows; ++r)
    for (int64_t c = 0; c < from.cols; ++c) result(r, c) = from.row(r)[c];
  return result;
}

/// A layer's input x [T, in] with a mean, the float model's x̃, and the residual streams h, h̃ [T, out].
struct Samples {
  MatrixF64 x, float_x, hidden, float_hidden;

  Samples(int64_t tokens, int64_t in, int64_t out) {
    const MatrixF64 noise = to_doubles(test::random_matrix(tokens, in, "x").view()), mix = to_doubles(test::random_matrix(in, in, "mix", 0.5).view());
    x = (noise + noise * mix).array() + 0.7;
    float_x = x + to_doubles(test::random_matrix(tokens, in, "drift", 0.2).view());
    hidden = to_doubles(test::random_matrix(tokens, out, "hidden").view());
    float_hidden = hidden + x.leftCols(1) * MatrixF64::Constant(1, out, 0.3);  // lacks what the input explains
  }

  InputStatistics measure(bool has_drift) const {
    const auto view = [](const MatrixF64& from) {
      Matrix result(from.rows(), from.cols());
      for (int64_t r = 0; r < from.rows(); ++r)
        for (int64_t c = 0; c < from.cols(); ++c) result.row(r)[c] = static_cast<float>(from(r, c));
      return result;
    };
    InputAccumulator sums(x.cols(), {.precision = Precision::f32});
    const Matrix inputs = view(x), floats = view(float_x), h = view(hidden), float_h = view(float_hidden);
    if (has_drift) sums.add(inputs.view(), floats.view());
    else sums.add(inputs.view());
    if (has_drift) sums.add_residual(inputs.view(), h.view(), float_h.view());
    return sums.finish("t");
  }
};

std::vector<int64_t> some_of(int64_t count) {
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < count; ++i)
    if (i % 3 != 1) kept.push_back(i);
  return kept;
}

/// Least squares over the samples themselves, by QR: targets [T, out] from the kept columns of x, a constant and, weighted by λ,
/// the wish to stay at W. Rows: those columns, then the bias.
MatrixF64 solve_plainly(const MatrixF64& x, const MatrixF64& targets, const MatrixF64& weights, const std::vector<int64_t>& kept, bool has_bias, double damping) {
  const auto tokens = x.rows(), count = static_cast<int64_t>(kept.size());
  const Eigen::RowVectorXd mean = x.colwise().mean();
  double diagonal = 0;
  for (int64_t c : kept) diagonal += has_bias ? (x.col(c).array() - mean(c)).square().mean() : x.col(c).array().square().mean();
  const double wish = std::sqrt(damping * diagonal / static_cast<double>(count) * static_cast<double>(tokens));
  MatrixF64 a = MatrixF64::Zero(tokens + count, count + has_bias), b = MatrixF64::Zero(tokens + count, targets.cols());
  for (int64_t i = 0; i < count; ++i) {
    a.col(i).head(tokens) = x.col(kept[static_cast<size_t>(i)]);
    a(tokens + i, i) = wish;
    b.row(tokens + i) = wish * weights.col(kept[static_cast<size_t>(i)]).transpose();
  }
  if (has_bias) a.col(count).head(tokens).setOnes();
  b.topRows(tokens) = targets;
  return a.householderQr().solve(b);
}

}  // namespace

TEST_CASE("What is left of a layer is the least squares over the samples", "[structures]") {
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{1, 3}, {7, 5}, {33, 31}, {96, 130}})
    for (const bool has_drift : {false, true})
      for (const bool has_bias : {false, true}) {
        CAPTURE(in, out, has_drift, has_bias);
        const Samples samples(4 * in + 20, in, out);
        const Matrix weights = test::random_matrix(out, in, "weights");
        const std::vector<int64_t> kept = some_of(in);
        const MatrixF64 w = to_doubles(weights.view());
        const MatrixF64 targets = has_drift ? MatrixF64(samples.float_x * w.transpose() + samples.float_hidden - samples.hidden) : MatrixF64(samples.x * w.transpose());
        const MatrixF64 expected = solve_plainly(samples.x, targets, w, kept, has_bias, 0.01);
        const FittedLayer layer = fit_kept(weights.view(), samples.measure(has_drift), kept, has_bias ? Offset::bias : Offset::none, 0.01, "t");
        REQUIRE(layer.bias_change.empty() != has_bias);
        double largest = 0;
        for (int64_t r = 0; r < out; ++r) {
          for (int64_t c = 0; c < in; ++c) {
            const auto at = std::ranges::find(kept, c);
            if (at == kept.end()) REQUIRE(layer.weights.row(r)[c] == 0);
            else largest = std::max(largest, std::abs(layer.weights.row(r)[c] - expected(at - kept.begin(), r)));
          }
          if (has_bias) largest = std::max(largest, std::abs(layer.bias_change[static_cast<size_t>(r)] - expected(static_cast<int64_t>(kept.size()), r)));
        }
        CHECK(largest < 2e-3);  // moments and products are f32 (2⁻²⁴), times the condition of the damped moment, which is below 1e4
      }
}

TEST_CASE("Structures go one by one, each the one that costs least after the others made up for it", "[structures]") {
  for (const auto& [count, width, kept] : {std::tuple<int64_t, int64_t, int64_t>{9, 1, 4}, {5, 7, 2}, {31, 1, 30}, {4, 16, 1}}) {
    CAPTURE(count, width, kept);
    const int64_t in = count * width;
    const Samples samples(4 * in + 20, in, 6);
    const InputStatistics statistics = samples.measure(false);
    const Matrix weights = test::random_matrix(6, in, "weights");
    const MatrixF64 w = to_doubles(weights.view());
    MatrixF64 h = to_doubles(statistics.second_moment.view());
    h += 0.01 * h.trace() / static_cast<double>(in) * MatrixF64::Identity(in, in);

    std::vector<int64_t> left(static_cast<size_t>(count));
    std::iota(left.begin(), left.end(), 0);
    while (static_cast<int64_t>(left.size()) > kept) {  // the error of the least squares without each of them, computed anew
      double least = 1e300;
      std::vector<int64_t> best;
      for (int64_t gone : left) {
        std::vector<int64_t> rest = left;
        std::erase(rest, gone);
        const auto columns = columns_of(rest, width);
        MatrixF64 inside(columns.size(), columns.size()), across(in, columns.size());
        for (size_t i = 0; i < columns.size(); ++i) {
          across.col(static_cast<int64_t>(i)) = h.col(columns[i]);
          for (size_t j = 0; j < columns.size(); ++j) inside(static_cast<int64_t>(i), static_cast<int64_t>(j)) = h(columns[i], columns[j]);
        }
        const double loss = (w * h * w.transpose()).trace() - (w * across * inside.ldlt().solve((w * across).transpose())).trace();
        if (loss < least) least = loss, best = rest;
      }
      left = best;
    }
    CHECK(keep_by_loss(weights.view(), statistics.second_moment.view(), width, kept, 0.01, "t") == left);
  }
}

TEST_CASE("The highest scores stay, and of equal ones the first go", "[structures]") {
  CHECK(keep_highest(std::vector<double>{3, 1, 2, 1, 1}, 3) == std::vector<int64_t>{0, 2, 4});
  CHECK(keep_highest(std::vector<double>{1, 1}, 2) == std::vector<int64_t>{0, 1});
  Matrix weights(2, 4);
  std::ranges::copy(std::vector<float>{1, 2, 3, 4, 0, 1, 0, 2}, weights.values().begin());
  CHECK(score_by_activation(weights.view(), std::vector<float>{1, 1, 2, 0.5f}, 2) == std::vector<double>{1 + 5, 18 + 10});
}

}  // namespace llmc
