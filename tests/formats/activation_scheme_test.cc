#include "formats/activation_scheme.h"

#include <cmath>

#include "core/error.h"
#include "tests/catch.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

constexpr ActivationScheme symmetric{.bits = 8};
constexpr ActivationScheme linear{.bits = 8, .mapping = Mapping::linear};
constexpr ActivationScheme narrow{.bits = 4, .mapping = Mapping::linear};

}  // namespace

// Expected values: compute_dynamic_scales_and_zp and fake_quantize of compressed-tensors 0.19 on the same ranges.
TEST_CASE("a token's grid is that of compressed-tensors", "[activation_scheme]") {
  const InputGrid even = make_dynamic_grid(symmetric, -2, 1);
  CHECK(even.scale == 2 / 127.5f);
  CHECK(even.zero_point == 0);
  CHECK(quantize_value(symmetric, even, 1.0f) == 64);    // 63.75
  CHECK(quantize_value(symmetric, even, 2.5f) == 127);   // clipped
  CHECK(quantize_value(symmetric, even, -2.5f) == -128);
  const InputGrid moved = make_dynamic_grid(linear, -1, 3);
  CHECK(moved.scale == 4 / 255.0f);
  CHECK(moved.zero_point == -64);                         // round(-128 + 63.75)
  CHECK(quantize_value(linear, moved, 0.0f) == -64);
  CHECK(quantize_value(linear, moved, 3.0f) == 127);
  CHECK(quantize_value(linear, moved, -1.0f) == -128);
  CHECK(make_dynamic_grid(linear, 1, 3).zero_point == -128);  // the range is widened to hold 0
  CHECK(make_dynamic_grid(linear, -3, -1).zero_point == 127);
  const InputGrid few = make_dynamic_grid(narrow, -1, 2);
  CHECK(few.scale == 0.2f);
  CHECK(few.zero_point == -3);
  CHECK(quantize_value(narrow, few, 9.0f) == 7);
}

TEST_CASE("ties go to even, after the zero point was added", "[activation_scheme]") {
  const InputGrid unit{.scale = 1, .zero_point = 0};
  CHECK(quantize_value(symmetric, unit, 0.5f) == 0);
  CHECK(quantize_value(symmetric, unit, 1.5f) == 2);
  CHECK(quantize_value(symmetric, unit, -2.5f) == -2);
  CHECK(quantize_value(linear, {.scale = 1, .zero_point = 1}, 0.5f) == 2);  // 1.5
}

TEST_CASE("a row of zeros has a grid, one with NaN has none", "[activation_scheme]") {
  for (const ActivationScheme& scheme : {symmetric, linear}) {
    const InputGrid zeros = make_dynamic_grid(scheme, 0, 0);
    CHECK(zeros.scale == 0x1p-23f);
    CHECK(quantize_value(scheme, zeros, 0) == zeros.zero_point);
    CHECK_FALSE(std::isfinite(make_dynamic_grid(scheme, NAN, NAN).scale));
    CHECK_FALSE(std::isfinite(make_dynamic_grid(scheme, -INFINITY, 1).scale));
  }
}

TEST_CASE("a calibrated grid clips nothing of its range and is representable", "[activation_scheme]") {
  const InputGrid even = make_static_grid(symmetric, -2, 1, DType::f32, "t");
  CHECK(even.scale == 2 / 127.0f);
  CHECK(quantize_value(symmetric, even, -2.0f) == -127);
  for (DType dtype : {DType::f16, DType::bf16}) {
    const InputGrid grid = make_static_grid(linear, -0.7f, 5.3f, dtype, "t");
    CHECK(round_to(dtype, grid.scale) == grid.scale);
    CHECK(grid.zero_point == static_cast<int>(std::nearbyint(-128 + 0.7f / grid.scale)));
  }
  CHECK(make_static_grid(symmetric, 0, 0, DType::bf16, "t").scale == 1);
  CHECK_THROWS_WITH(make_static_grid(symmetric, 1, -1, DType::f32, "layer"), Contains("layer: expected a finite range of inputs, found 1 to -1"));
  CHECK_THROWS_AS(make_static_grid(symmetric, 0, INFINITY, DType::f32, "t"), Error);
  CHECK_THROWS_AS(make_static_grid(symmetric, NAN, 1, DType::f32, "t"), Error);
  CHECK_THROWS_WITH(make_static_grid(symmetric, -1e-9f, 1e-9f, DType::f16, "layer"), Contains("give a scale of 0 in F16"));
}

TEST_CASE("stored grids are checked", "[activation_scheme]") {
  CHECK(make_stored_grid(linear, 0.25, -128) == InputGrid{.scale = 0.25f, .zero_point = -128});
  for (double scale : {0.0, -1.0, double(NAN), double(INFINITY), 1e300}) CHECK_THROWS_WITH(make_stored_grid(linear, scale, 0), Contains("expected a positive finite number"));
  CHECK_THROWS_WITH(make_stored_grid(symmetric, 1, 3), Contains("zero point of the input: expected 0, found 3"));
  CHECK_THROWS_WITH(make_stored_grid(narrow, 1, 8), Contains("expected -8 to 7, found 8"));
}
