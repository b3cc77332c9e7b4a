// Grids that are not evenly spaced: what they hold, how their scales are chosen, and that every weight gets the nearest level.
#include "passes/grid.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "passes/grid_kernels.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/support.h"
#include "tests/vector_targets.h"

using namespace llmc;

namespace {

/// Every scheme that is not evenly spaced, for rows that are multiples of 32.
std::vector<Scheme> level_schemes() {
  std::vector<Scheme> schemes;
  for (const char* name : {"FP8A16", "FP8A16-tensor", "FP8A16-g32", "FP8_E5M2A16", "MXFP8A16", "MXFP4A16", "NVFP4A16", "NF4-g32", "NF4-channel", "codebook2", "codebook5-channel", "codebook16-g32", "codebook256"}) schemes.push_back(parse_scheme(name));
  return schemes;
}

}  // namespace

TEST_CASE("every weight gets the nearest value of its grid", "[grid]") {
  const Matrix values = test::random_matrix(9, 96, "nearest", 0.02);
  for (const Scheme& scheme : level_schemes()) {
    INFO(to_string(scheme));
    const QuantizedMatrix matrix = round_to_nearest(values.view(), scheme, scale_dtype_for(scheme, DType::bf16), {}, "t");
    const Matrix back = dequantize(matrix);
    for (int64_t r = 0; r < 9; ++r)
      for (int64_t c = 0; c < 96; ++c) {
        const Grid grid = get_grid(matrix, matrix.scale_index(r, c));
        float least = INFINITY;
        for (float code = grid.lowest; code <= grid.highest; ++code) least = std::min(least, std::abs(grid.value(code) - values.row(r)[c]));
        REQUIRE(back.row(r)[c] == grid.value(matrix.codes[static_cast<size_t>(r * 96 + c)]));
        REQUIRE(std::abs(back.row(r)[c] - values.row(r)[c]) <= least * 1.00001f + 1e-9f);  // x / s is rounded, so a near tie may go either way
      }
  }
}

TEST_CASE("rounding many is rounding each", "[grid]") {
  for (const Scheme& scheme : level_schemes())
    for (int64_t count : {1, 31, 33, 64, 255}) {
      INFO(to_string(scheme) << " " << count);
      const Matrix values = test::random_matrix(1, 96, "fit", 0.02), more = test::random_matrix(1, count, "more", 0.03);
      const QuantizedMatrix matrix = round_to_nearest(values.view(), scheme, scale_dtype_for(scheme, DType::bf16), {}, "t");
      const Grid grid = get_grid(matrix, 0);
      std::vector<float> rounded(static_cast<size_t>(count));
      grid.round(more.values(), rounded);
      for (size_t i = 0; i < rounded.size(); ++i) {
        const float expected = grid.value(grid.code(more.values()[i])), x = more.values()[i];
        if (rounded[i] != expected) REQUIRE(std::abs(rounded[i] - x) == Approx(std::abs(expected - x)).epsilon(1e-5));  // a near tie
      }
      // Exact levels, midpoints of floats and weights far outside come out the same.
      if (!find_float_format(scheme.grid)) continue;
      std::vector<float> exact = {1e30f, -1e30f};
      for (float code = grid.lowest; code < grid.highest; ++code) exact.push_back(grid.value(code)), exact.push_back((grid.levels[static_cast<size_t>(code - grid.lowest)] + grid.levels[static_cast<size_t>(code - grid.lowest) + 1]) / 2 * 0.25f);
      Grid quarter = grid;
      quarter.scale = 0.25f;  // divides without rounding
      std::vector<float> many(exact.size());
      quarter.round(exact, many);
      for (size_t i = 0; i < exact.size(); ++i) REQUIRE(many[i] == quarter.value(quarter.code(exact[i])));
    }
}

TEST_CASE("codes in vector code are those of each weight, ties included", "[grid]") {
  test::for_each_target([] {
    for (const float scale : {1.0f, 0.25f, 0.037f, -0.037f, 3e-42f, 3e38f, 1e-30f})
      for (const float zero : {0.0f, -3.0f})
        for (const float top : {7.0f, 127.0f}) {
          const Grid grid{.scale = scale, .zero = zero, .lowest = -top - 1, .highest = top};
          std::vector<float> x = {0.0f, -0.0f, 1e-45f, 1e38f, -1e38f};
          for (float place = -140; place <= 140; place += 0.5f)
            for (const float step : {-1e-6f, 0.0f, 1e-6f}) x.push_back(place * (1 + step) * scale);
          const Matrix others = test::random_matrix(1, 1001, "x", 20 * std::abs(scale));
          x.insert(x.end(), others.values().begin(), others.values().end());
          std::erase_if(x, [](float value) { return !std::isfinite(value); });
          std::vector<int8_t> codes(x.size());
          grid.code(x, codes);
          for (size_t i = 0; i < x.size(); ++i) {
            CAPTURE(scale, zero, top, x[i]);
            REQUIRE(codes[i] == static_cast<int>(grid.code(x[i])));
          }
        }
  });
}

TEST_CASE("errors summed in vector code are those of rounding each weight, for both signs of the scale", "[grid]") {
  const Matrix weights = test::random_matrix(1, 320, "weights", 0.02);
  Matrix importance = test::random_matrix(1, 320, "importance");
  for (float& value : importance.values()) value *= value;
  for (const char* name : {"W2A16-g32-symmetric", "W3A16-channel-symmetric", "W8A16-g32-symmetric", "W4A16-g32-linear", "W2A16-channel-linear"})
    for (const size_t count : {16, 48, 320})
      for (const bool weighs : {false, true}) {
        INFO(name << " " << count << " " << weighs);
        const auto x = weights.values().first(count);
        const QuantizedMatrix matrix = round_to_nearest(weights.view(), parse_scheme(name), DType::bf16, {}, "t");
        Grid grid = get_grid(matrix, 0);
        const bool both = grid.zero == 0;
        PartialSums sums{}, mirrored{}, expected{};
        add_squared_errors(x, weighs ? importance.values().data() : nullptr, grid.scale, grid.zero, grid.lowest, grid.highest, sums, both ? &mirrored : nullptr);
        for (const PartialSums* found : {&sums, &mirrored}) {
          if (found == &mirrored && !both) continue;
          expected = {};
          std::vector<float> rounded(count);
          grid.round(x, rounded);
          for (size_t i = 0; i < count; ++i) {
            const float error = x[i] - rounded[i];
            expected[i % expected.size()] += (weighs ? importance.values()[i] * error : error) * error;
          }
          REQUIRE(*found == expected);  // the same operations in the same order: bit for bit
          REQUIRE(std::ranges::any_of(expected, [](float value) { return value > 0; }));
          grid.scale = -grid.scale;
        }
      }
}

TEST_CASE("the squared-error rule never does worse than min-max", "[grid]") {
  const Matrix values = test::random_matrix(6, 96, "mse");
  for (const Scheme& scheme : level_schemes()) {
    INFO(to_string(scheme));
    const DType dtype = scale_dtype_for(scheme, DType::bf16);
    const double minmax = test::squared_error(values, round_to_nearest(values.view(), scheme, dtype, {}, "t"));
    const double searched = test::squared_error(values, round_to_nearest(values.view(), scheme, dtype, {.rule = RangeRule::mse}, "t"));
    REQUIRE(searched <= minmax * 1.00001);  // sums in f32 and in f64 may order near equals differently
    if (scheme.grid == GridKind::nf4 || scheme.scale == ScaleKind::e4m3) REQUIRE(searched < 0.95 * minmax);
  }
}

TEST_CASE("scales of the formats", "[grid]") {
  Matrix values(1, 32);
  SECTION("MXFP4: a power of two, the largest weight clipped by half a step at most") {
    const auto scale_for = [&](float widest) {
      values.row(0)[3] = -widest;
      return round_to_nearest(values.view(), parse_scheme("MXFP4A16"), DType::f8_e8m0, {}, "t").scales[0];
    };
    CHECK(scale_for(6) == 1);
    CHECK(scale_for(7) == 1);
    CHECK(scale_for(7.001f) == 2);
    CHECK(scale_for(3.5f) == 0.5f);
    CHECK(scale_for(3.51f) == 1);
    CHECK(scale_for(1e-44f) == 0x1p-127f);
  }
  SECTION("NVFP4: the tensor's scale is a power of two, and products are exact in bf16") {
    const Matrix weights = test::random_matrix(8, 64, "nvfp4", 0.05);
    const QuantizedMatrix matrix = round_to_nearest(weights.view(), parse_scheme("NVFP4A16"), DType::f8_e4m3, {}, "t");
    int exponent = 0;
    CHECK(std::frexp(matrix.global_scale, &exponent) == 0.5f);
    const float widest = std::ranges::max(matrix.scales);
    CHECK(widest >= 224);  // just above half of it may round down
    CHECK(widest <= 448);
    const Matrix back = dequantize(matrix);
    for (float x : back.values()) REQUIRE(round_to(DType::bf16, x) == x);
    // Weights that are far below the rest become 0 and do not stop the run.
    Matrix uneven(1, 32);
    uneven.row(0)[0] = 1, uneven.row(0)[20] = 1e-9f;
    const QuantizedMatrix small = round_to_nearest(uneven.view(), parse_scheme("NVFP4A16"), DType::f8_e4m3, {}, "t");
    CHECK(small.scales[1] == 0x1p-9f);
    CHECK(dequantize(small).row(0)[20] == 0);
  }
  SECTION("zeros stay zeros") {
    for (const Scheme& scheme : level_schemes()) {
      const QuantizedMatrix matrix = round_to_nearest(values.view(), scheme, scale_dtype_for(scheme, DType::bf16), {.rule = RangeRule::mse}, "t");
      const Matrix back = dequantize(matrix);
      CHECK(std::ranges::all_of(back.values(), [](float x) { return x == 0; }));
    }
  }
}

TEST_CASE("outliers are added to what the codes mean", "[grid]") {
  const Matrix values = test::random_matrix(3, 32, "outliers");
  QuantizedMatrix matrix = round_to_nearest(values.view(), parse_scheme("NF4-g32"), DType::bf16, {}, "t");
  const Matrix before = dequantize(matrix);
  matrix.outliers = {.dtype = DType::bf16, .positions = {0, 95}, .values = {8, -4}};
  const Matrix after = dequantize(matrix);
  CHECK(after.row(0)[0] == before.row(0)[0] + 8);
  CHECK(after.row(2)[31] == before.row(2)[31] - 4);
  CHECK(after.row(1)[5] == before.row(1)[5]);
}

TEST_CASE("grids do not depend on the number of threads", "[grid]") {
  const Matrix values = test::random_matrix(70, 96, "threads");
  for (const Scheme& scheme : level_schemes()) {
    std::vector<QuantizedMatrix> results;
    for (int threads : {1, 3}) with_threads(threads, [&] { results.push_back(round_to_nearest(values.view(), scheme, scale_dtype_for(scheme, DType::f32), {.rule = RangeRule::mse}, "t")); });
    CHECK(results[0] == results[1]);
  }
}
