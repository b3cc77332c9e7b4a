#include "passes/rounding.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

std::vector<Scheme> all_schemes() {
  std::vector<Scheme> schemes;
  for (int bits = 2; bits <= 8; ++bits)
    for (Mapping mapping : {Mapping::symmetric, Mapping::linear})
      for (Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::group}) schemes.push_back({bits, mapping, granularity, granularity == Granularity::group ? 32 : 0});
  return schemes;
}

}  // namespace

TEST_CASE("symmetric: s = max|x| / (2^(b-1) - 1) and q = round(x / s)", "[rounding]") {
  const Matrix values = test::random_matrix(5, 64, "symmetric");
  for (int bits = 2; bits <= 8; ++bits) {
    const QuantizedMatrix matrix = round_to_nearest(values.view(), {bits, Mapping::symmetric, Granularity::channel, 0}, DType::f32, {}, "t");
    for (int64_t r = 0; r < 5; ++r) {
      float widest = 0;
      for (float x : values.view().row_span(r)) widest = std::max(widest, std::abs(x));
      const float scale = widest / static_cast<float>((1 << (bits - 1)) - 1);
      REQUIRE(matrix.scales[static_cast<size_t>(r)] == scale);
      for (int64_t c = 0; c < 64; ++c) REQUIRE(matrix.codes[static_cast<size_t>(r * 64 + c)] == static_cast<int>(std::nearbyint(values.row(r)[c] / scale)));
    }
  }
}

TEST_CASE("linear: q = round((x - x_min) / (x_max - x_min) * (2^b - 1)) on a grid that holds 0", "[rounding]") {
  const Matrix values = test::random_matrix(7, 96, "linear");
  for (int bits = 2; bits <= 8; ++bits) {
    const QuantizedMatrix matrix = round_to_nearest(values.view(), {bits, Mapping::linear, Granularity::group, 32}, DType::f32, {}, "t");
    const double steps = (1 << bits) - 1;
    for (int64_t r = 0; r < 7; ++r)
      for (int64_t c = 0; c < 96; ++c) {
        const int64_t index = matrix.scale_index(r, c);
        const double scale = matrix.scales[static_cast<size_t>(index)], zero = matrix.zero_code(index) - matrix.scheme.lowest_code();
        const double x_min = -zero * scale, x_max = (steps - zero) * scale;  // the grid's ends; 0 lies on it
        const double q = std::clamp(std::nearbyint((static_cast<double>(values.row(r)[c]) - x_min) / (x_max - x_min) * steps), 0.0, steps);
        const int code = matrix.codes[static_cast<size_t>(r * 96 + c)] - matrix.scheme.lowest_code();
        REQUIRE(std::abs(code - q) <= (std::abs(std::fmod(q, 1.0)) < 1e-12 ? 1.0 : 0.0));  // f32 against f64 may differ at a tie
      }
    // The range covers the data but for the half step by which the zero point moved it.
    for (int64_t g = 0; g < matrix.scale_count(); ++g) {
      const auto span = values.view().row_range(g / 3, 1).column_range(g % 3 * 32, 32).row_span(0);
      const double scale = matrix.scales[static_cast<size_t>(g)];
      CHECK(scale == Approx((std::max(0.0f, std::ranges::max(span)) - std::min(0.0f, std::ranges::min(span))) / steps));
    }
  }
}

TEST_CASE("a stored tensor is rounded as the matrix that it holds", "[rounding]") {
  const Matrix values = test::random_matrix(19, 64, "stored");
  std::vector<Scheme> schemes = all_schemes();
  for (const char* name : {"MXFP4A16", "NVFP4A16", "NF4-g32", "codebook8"}) schemes.push_back(parse_scheme(name));
  for (const Scheme& scheme : schemes)
    for (const bool transposed : {false, true}) {
      INFO(to_string(scheme) << " " << transposed);
      StoredTensor tensor{.name = "t", .dtype = DType::bf16, .shape = transposed ? Shape{64, 19} : Shape{19, 64}, .transposed = transposed};
      tensor.form = make_floats(tensor, values.view());
      const DType scale_dtype = scale_dtype_for(scheme, DType::bf16);
      const QuantizedMatrix expected = round_to_nearest(read_matrix(tensor).view(), scheme, scale_dtype, {}, "t");
      for (const int threads : {1, 3}) with_threads(threads, [&] { CHECK(round_to_nearest(tensor, scheme, scale_dtype, {}) == expected); });
    }
}

TEST_CASE("rounding error is at most half a step inside the range, and exact zeros stay", "[rounding]") {
  Matrix values = test::random_matrix(6, 64, "half step");
  for (size_t i = 0; i < values.values().size(); i += 5) values.values()[i] = 0;
  for (const Scheme& scheme : all_schemes())
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      INFO(to_string(scheme) << " " << get_info(dtype).name);
      const QuantizedMatrix matrix = round_to_nearest(values.view(), scheme, dtype, {}, "t");
      const Matrix back = dequantize(matrix);
      // A narrow scale may come out smaller by 2^-9 (bf16) of itself, which clips the extreme by up to 2^(b-1) · 2^-9 steps;
      // a linear zero point may shift the range by half a step.
      const double slack = 0.5001 + (dtype == DType::f32 ? 0 : std::ldexp(1, scheme.bits - 9)) + (scheme.mapping == Mapping::linear ? 0.5 : 0);
      for (int64_t r = 0; r < 6; ++r)
        for (int64_t c = 0; c < 64; ++c) {
          const float scale = matrix.scales[static_cast<size_t>(matrix.scale_index(r, c))];
          REQUIRE(round_to(dtype, scale) == scale);
          REQUIRE(std::abs(values.row(r)[c] - back.row(r)[c]) <= slack * scale);
          if (values.row(r)[c] == 0) REQUIRE(back.row(r)[c] == 0);
        }
    }
}

TEST_CASE("the mse range is never worse than min-max, and better somewhere", "[rounding]") {
  const Matrix values = test::random_matrix(8, 128, "mse");
  int better = 0;
  for (const Scheme& scheme : all_schemes()) {
    const double plain = test::squared_error(values, round_to_nearest(values.view(), scheme, DType::f32, {.rule = RangeRule::minmax}, "t"));
    const double searched = test::squared_error(values, round_to_nearest(values.view(), scheme, DType::f32, {.rule = RangeRule::mse}, "t"));
    CHECK(searched <= plain * (1 + 1e-6));  // the search sums in f32
    better += searched < 0.95 * plain;
  }
  CHECK(better > 10);
}

TEST_CASE("the mse range puts a symmetric grid's longer side where the weights need it", "[rounding]") {
  Matrix values(2, 8);
  for (int64_t c = 0; c < 8; ++c) values.row(0)[c] = static_cast<float>(c) - 3, values.row(1)[c] = 3 - static_cast<float>(c);  // −3 … 4 and 3 … −4
  for (const auto& [name, scale] : {std::pair("W3A16-channel", -1.0f), std::pair("W3A16-channel-linear", 1.0f)}) {
    INFO(name);
    const QuantizedMatrix matrix = round_to_nearest(values.view(), parse_scheme(name), DType::f32, {.rule = RangeRule::mse}, "t");
    CHECK(matrix.scales[0] == Approx(scale).margin(0.005));  // the search goes in steps of 0.007 of the range, 0.0093
    CHECK(matrix.scales[1] == Approx(1).margin(0.005));
    CHECK(test::squared_error(values, matrix) < 0.0022);  // at most 0.005 of every weight
  }
  const QuantizedMatrix fixed = round_to_nearest(values.view(), parse_scheme("W3A16-channel"), DType::f32, {}, "t");
  CHECK(fixed.scales[0] == 4.0f / 3);  // the formula of min-max stays
}

TEST_CASE("the percentile range leaves outliers out", "[rounding]") {
  Matrix values(1, 1000);
  for (int64_t i = 0; i < 1000; ++i) values.row(0)[i] = static_cast<float>(i % 2 ? i : -i) / 1000;
  values.row(0)[999] = 100;
  const Scheme scheme{.bits = 8, .mapping = Mapping::symmetric, .granularity = Granularity::channel};
  const QuantizedMatrix matrix = round_to_nearest(values.view(), scheme, DType::f32, {.rule = RangeRule::percentile, .percentile = 99}, "t");
  CHECK(matrix.scales[0] * 127 == Approx(0.98901));  // numpy.percentile(numpy.abs(x), 99)
  CHECK(matrix.codes[999] == 127);
  const QuantizedMatrix linear = round_to_nearest(values.view(), {.bits = 8, .mapping = Mapping::linear, .granularity = Granularity::channel}, DType::f32, {.rule = RangeRule::percentile, .percentile = 99}, "t");
  CHECK(linear.scales[0] * 255 == Approx(0.97903 + 0.97802).epsilon(0.002));
}

TEST_CASE("rows of zeros, single signs and impossible scales", "[rounding]") {
  Matrix values(3, 4);
  for (int64_t i = 0; i < 4; ++i) values.row(1)[i] = static_cast<float>(i + 1), values.row(2)[i] = -static_cast<float>(i + 1);
  for (Mapping mapping : {Mapping::symmetric, Mapping::linear})
    for (RangeRule rule : {RangeRule::minmax, RangeRule::percentile, RangeRule::mse}) {
      const QuantizedMatrix matrix = round_to_nearest(values.view(), {4, mapping, Granularity::channel, 0}, DType::f32, {.rule = rule}, "t");
      const Matrix back = dequantize(matrix);
      for (int64_t i = 0; i < 4; ++i) {
        CHECK(back.row(0)[i] == 0);
        CHECK(back.row(1)[i] == Approx(values.row(1)[i]).margin(0.35));
        CHECK(back.row(2)[i] == Approx(values.row(2)[i]).margin(0.35));
      }
    }
  const Matrix tiny = test::random_matrix(2, 8, "tiny", 1e-9);
  CHECK_THROWS_WITH(round_to_nearest(tiny.view(), {8, Mapping::symmetric, Granularity::channel, 0}, DType::f16, {}, "w.weight"), Contains("w.weight: row 0") && Contains("scale of 0 in F16"));
  const Matrix huge = test::random_matrix(2, 8, "huge", 1e7);
  CHECK_THROWS_WITH(round_to_nearest(huge.view(), {2, Mapping::symmetric, Granularity::channel, 0}, DType::f16, {}, "w"), Contains("inf"));
  CHECK_THROWS_WITH(round_to_nearest(values.view(), {4, Mapping::symmetric, Granularity::group, 3}, DType::f32, {}, "w"), Contains("rows of 4 are not a multiple of the group size 3"));
}

TEST_CASE("codes do not depend on the number of threads", "[rounding]") {
  const Matrix values = test::random_matrix(130, 96, "threads");
  for (const Scheme& scheme : {Scheme{3, Mapping::linear, Granularity::group, 32}, Scheme{8, Mapping::symmetric, Granularity::tensor, 0}}) {
    std::vector<QuantizedMatrix> results;
    for (int threads : {1, 2, 7}) with_threads(threads, [&] { results.push_back(round_to_nearest(values.view(), scheme, DType::bf16, {.rule = RangeRule::mse}, "t")); });
    CHECK(results[0] == results[1]);
    CHECK(results[0] == results[2]);
  }
}
