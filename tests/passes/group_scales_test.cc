// The search of groups' scales against a plain one in double precision, on every kind of grid that has groups.
#include "passes/group_scales.h"

#include <cmath>

#include "core/parallel.h"
#include "passes/hessian.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

constexpr int64_t in = 96;

/// Mean of x xᵀ over correlated inputs.
Matrix make_moment() {
  const Matrix noise = test::random_matrix(200, in, "noise"), mix = test::random_matrix(in, in, "mix", 0.2);
  Matrix moment(in, in);
  for (int64_t t = 0; t < 200; ++t) {
    std::vector<double> x(in);
    for (int64_t i = 0; i < in; ++i) {
      x[static_cast<size_t>(i)] = noise.row(t)[i];
      for (int64_t k = 0; k < in; ++k) x[static_cast<size_t>(i)] += noise.row(t)[k] * mix.row(k)[i];
    }
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j) moment.row(i)[j] += static_cast<float>(x[static_cast<size_t>(i)] * x[static_cast<size_t>(j)] / 200);
  }
  return moment;
}

/// Δ·H·Δᵀ over a group after rounding to the nearest values of the grid.
double group_error(const Matrix& weights, const Matrix& moment, int64_t row, int64_t begin, int64_t group, const Grid& grid) {
  std::vector<double> difference;
  for (int64_t c = begin; c < begin + group; ++c) difference.push_back(double{weights.row(row)[c]} - grid.value(grid.code(weights.row(row)[c])));
  double error = 0;
  for (int64_t i = 0; i < group; ++i)
    for (int64_t j = 0; j < group; ++j) error += difference[static_cast<size_t>(i)] * moment.row(begin + i)[begin + j] * difference[static_cast<size_t>(j)];
  return error;
}

QuantizedMatrix round(const Matrix& weights, const char* scheme_name) {
  const Scheme scheme = parse_scheme(scheme_name);
  return round_to_nearest(weights.view(), scheme, scale_dtype_for(scheme, DType::bf16), {.rule = RangeRule::mse}, "t");
}

}  // namespace

TEST_CASE("groups get the scale of the least output error among those tried", "[group_scales]") {
  const Matrix weights = test::random_matrix(67, in, "weights", 0.05), moment = make_moment();
  for (const char* name : {"W4A16-g32", "W3A16-g16-linear", "W2A16-g96", "NF4-g32", "NVFP4A16", "MXFP4A16", "FP8A16-g32"}) {
    CAPTURE(name);
    const QuantizedMatrix start = round(weights, name);
    QuantizedMatrix found = start;
    search_group_scales(found, weights.view(), moment.view());
    CHECK(found.zero_points == start.zero_points);
    const int64_t group = start.span();
    for (int64_t r = 0; r < weights.rows(); ++r)
      for (int64_t begin = 0; begin < in; begin += group) {
        const int64_t index = start.scale_index(r, begin);
        const Grid first = get_grid(start, index), chosen = get_grid(found, index);
        double least = group_error(weights, moment, r, begin, group, first);
        for (int step = -12; step <= 12; ++step) {
          Grid grid = first;
          grid.scale = stored_scales(start)(first.scale * (1 + 0.025f * static_cast<float>(step)));
          least = std::min(least, group_error(weights, moment, r, begin, group, grid));
        }
        REQUIRE(group_error(weights, moment, r, begin, group, chosen) <= least * 1.0001);  // sums in f32 may order near equals differently
        for (int64_t c = begin; c < begin + group; ++c) REQUIRE(found.codes[static_cast<size_t>(r * in + c)] == chosen.code(weights.row(r)[c]));
      }
    const double before = output_error(weights.view(), dequantize(start).view(), moment.view()), after = output_error(weights.view(), dequantize(found).view(), moment.view());
    if (start.scheme.bits < 8 && start.scheme.scale != ScaleKind::power_of_two) CHECK(after < 0.97 * before);
  }
}

TEST_CASE("groups' scales stay where there is nothing to search or to gain", "[group_scales]") {
  const Matrix weights = test::random_matrix(5, in, "weights"), moment = make_moment(), unused(in, in);
  for (const char* name : {"W4A16-channel", "W4A16-tensor-linear", "codebook4-g32", "FP8A16"}) {
    const QuantizedMatrix start = round(weights, name);
    QuantizedMatrix found = start;
    search_group_scales(found, weights.view(), moment.view());
    CHECK(found == start);
  }
  const QuantizedMatrix start = round(weights, "W4A16-g32");
  QuantizedMatrix found = start;
  search_group_scales(found, weights.view(), unused.view());  // inputs that are always 0
  CHECK(found == start);
}

TEST_CASE("groups' scales do not depend on the number of threads", "[group_scales]") {
  const Matrix weights = test::random_matrix(150, in, "weights"), moment = make_moment();
  std::vector<QuantizedMatrix> results;
  for (int threads : {1, 3})
    with_threads(threads, [&] {
      results.push_back(round(weights, "W3A16-g32-linear"));
      search_group_scales(results.back(), weights.view(), moment.view());
    });
  CHECK(results[0] == results[1]);
}
