#include "passes/half_quadratic.h"

#include <cmath>

#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

Grid minmax_grid(const Matrix& weights, const Scheme& scheme, DType dtype) { return choose_grid(weights.view(), {}, scheme, dtype, {}, "t", 0); }

Scheme scheme_of(int bits, Mapping mapping) { return {.bits = bits, .mapping = mapping, .granularity = Granularity::channel}; }

}  // namespace

TEST_CASE("the half-quadratic grid has less error than min-max, on the stored grid", "[half_quadratic]") {
  int better = 0, tried = 0;
  for (int bits : {2, 3, 4, 8})
    for (Mapping mapping : {Mapping::symmetric, Mapping::linear})
      for (DType dtype : {DType::f32, DType::bf16, DType::f16})
        for (int64_t cols : {1, 31, 32, 33, 255}) {
          CAPTURE(bits, to_string(mapping), get_info(dtype).name, cols);
          const Matrix weights = test::random_matrix(1, cols, "hqq", 0.02);
          const Scheme scheme = scheme_of(bits, mapping);
          const Grid start = minmax_grid(weights, scheme, dtype);
          const Grid found = search_half_quadratic(weights.view(), {}, start, scheme, {.dtype = dtype});
          const double before = grid_error(weights.view(), {}, start), after = grid_error(weights.view(), {}, found);
          CHECK(after <= before);
          better += after < before, tried += cols > 1;
          CHECK(found.scale == round_to(dtype, found.scale));
          CHECK(found.zero == std::round(found.zero));
          if (mapping == Mapping::symmetric) CHECK(found.zero == 0);
          CHECK((found.zero >= found.lowest && found.zero <= found.highest));
        }
  CHECK(better >= tried * 3 / 4);
}

TEST_CASE("the half-quadratic grid is near the best that brute force finds", "[half_quadratic]") {
  for (Mapping mapping : {Mapping::symmetric, Mapping::linear}) {
    const Scheme scheme = scheme_of(3, mapping);
    Matrix weights = test::random_matrix(1, 64, "brute force");
    weights.row(0)[5] = 12;  // an outlier that is better clipped
    const Grid start = minmax_grid(weights, scheme, DType::f32);
    double least = INFINITY;
    for (int step = 1; step <= 400; ++step)
      for (float zero = mapping == Mapping::symmetric ? 0 : start.lowest; zero <= (mapping == Mapping::symmetric ? 0 : start.highest); ++zero) {
        Grid grid = start;
        grid.scale = start.scale * static_cast<float>(step) / 400;
        grid.zero = zero;
        least = std::min(least, grid_error(weights.view(), {}, grid));
      }
    const double before = grid_error(weights.view(), {}, start), found = grid_error(weights.view(), {}, choose_grid(weights.view(), {}, scheme, DType::f32, {.rule = RangeRule::hqq}, "t", 0));
    CAPTURE(to_string(mapping), before, found, least);
    CHECK(found <= before - 0.5 * (before - least));  // a local search: at least half of what there is to gain
  }
}

TEST_CASE("weights on a grid are found again, and importance counts", "[half_quadratic]") {
  Matrix weights(1, 32);
  for (int64_t c = 0; c < 32; ++c) weights.row(0)[c] = 0.25f * static_cast<float>(c % 15 - 7);
  const Scheme scheme = scheme_of(4, Mapping::symmetric);
  const Grid exact = search_half_quadratic(weights.view(), {}, minmax_grid(weights, scheme, DType::bf16), scheme, {.dtype = DType::bf16});
  CHECK(exact.scale == 0.25f);
  CHECK(grid_error(weights.view(), {}, exact) == 0);

  const Matrix random = test::random_matrix(1, 32, "importance");
  std::vector<float> importance(32, 1e-6f);
  for (size_t c = 0; c < 8; ++c) importance[c] = 1;
  const Scheme coarse = scheme_of(2, Mapping::linear);
  const Grid start = minmax_grid(random, coarse, DType::f32);
  const Grid plain = search_half_quadratic(random.view(), {}, start, coarse, {.dtype = DType::f32}), weighted = search_half_quadratic(random.view(), importance, start, coarse, {.dtype = DType::f32});
  CHECK(grid_error(random.view(), importance, weighted) < grid_error(random.view(), importance, plain));
}

TEST_CASE("hqq is an observer like the others", "[half_quadratic]") {
  const Matrix weights = test::random_matrix(4, 64, "observer");
  const Scheme scheme{.bits = 3, .mapping = Mapping::linear, .granularity = Granularity::group, .group_size = 32};
  const QuantizedMatrix matrix = round_to_nearest(weights.view(), scheme, DType::bf16, {.rule = RangeRule::hqq}, "t");
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t group = 0; group < 2; ++group) {
      const ConstMatrixView span = weights.view().row_range(r, 1).column_range(32 * group, 32);
      const Grid expected = choose_grid(span, {}, scheme, DType::bf16, {.rule = RangeRule::hqq}, "t", 0);
      CHECK(matrix.scales[static_cast<size_t>(2 * r + group)] == expected.scale);
      for (RangeRule rule : {RangeRule::minmax, RangeRule::mse}) CHECK(grid_error(span, {}, expected) <= grid_error(span, {}, choose_grid(span, {}, scheme, DType::bf16, {.rule = rule}, "t", 0)));
    }
  CHECK(to_string(RangeRule::hqq) == "hqq");
  const Matrix zeros(2, 64);
  CHECK(round_to_nearest(zeros.view(), scheme, DType::bf16, {.rule = RangeRule::hqq}, "t").scales[0] == 1);
}
