// Tables of levels against their definitions, and small floats against brute force.
#include "formats/levels.h"

#include <algorithm>
#include <cmath>

#include "core/dtype.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

TEST_CASE("small floats have the levels of their formats", "[levels]") {
  const auto e2m1 = fixed_levels(GridKind::fp4_e2m1);
  const std::vector<float> expected = {-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6};
  CHECK(std::ranges::equal(e2m1, expected));
  const auto e4m3 = fixed_levels(GridKind::fp8_e4m3), e5m2 = fixed_levels(GridKind::fp8_e5m2);
  CHECK(e4m3.size() == 253);
  CHECK(e4m3.back() == 448);
  CHECK(e4m3[127] == 0x1p-9f);  // the smallest after 0
  CHECK(e5m2.size() == 247);
  CHECK(e5m2.back() == 57344);
  CHECK(e5m2[124] == 0x1p-16f);
  for (GridKind kind : {GridKind::fp4_e2m1, GridKind::fp8_e4m3, GridKind::fp8_e5m2, GridKind::nf4}) {
    const auto levels = fixed_levels(kind);
    CHECK(std::ranges::adjacent_find(levels, std::ranges::greater_equal()) == levels.end());
  }
  CHECK(fixed_levels(GridKind::nf4)[7] == 0);
  CHECK(fixed_levels(GridKind::integer).empty());
  CHECK(fixed_levels(GridKind::codebook).empty());
}

TEST_CASE("the code of a small float is the nearest, ties to even", "[levels]") {
  const Matrix values = test::random_matrix(1, 4000, "small floats", 1);
  for (GridKind kind : {GridKind::fp4_e2m1, GridKind::fp8_e4m3, GridKind::fp8_e5m2}) {
    const FloatFormat& format = *find_float_format(kind);
    const auto levels = fixed_levels(kind);
    for (int code = -format.largest; code <= format.largest; ++code) {
      REQUIRE(format.code(format.value(code)) == code);
      if (code == format.largest) continue;
      const float middle = (format.value(code) + format.value(code + 1)) / 2;  // exact: a bit more than the format has
      REQUIRE(format.code(middle) == (code % 2 == 0 ? code : code + 1));
      REQUIRE(format.code(std::nextafter(middle, -INFINITY)) == code);
      REQUIRE(format.code(std::nextafter(middle, INFINITY)) == code + 1);
    }
    for (float scale : {1e-3f, 0.3f, 10.0f, 1e6f})
      for (float x : values.values()) {
        const float wanted = x * scale;
        const auto nearest = std::ranges::min_element(levels, {}, [&](float level) { return std::abs(static_cast<double>(level) - wanted); });
        REQUIRE(std::abs(static_cast<double>(format.value(format.code(wanted))) - wanted) == std::abs(static_cast<double>(*nearest) - wanted));
      }
  }
}

TEST_CASE("8-bit scales convert as their formats say", "[dtype]") {
  for (int bits = 0; bits < 256; ++bits) {
    const auto byte = static_cast<uint8_t>(bits);
    const float value = f8_e4m3_to_f32(byte);
    if ((bits & 0x7f) == 0x7f) {
      CHECK(std::isnan(value));
    } else {
      CHECK(f32_to_f8_e4m3(value) == byte);
      CHECK(std::abs(value) == std::abs(find_float_format(GridKind::fp8_e4m3)->value(bits & 0x7f)));
    }
    if (bits < 255) CHECK(f32_to_f8_e8m0(f8_e8m0_to_f32(byte)) == byte);
  }
  CHECK(f32_to_f8_e4m3(1e9f) == 0x7e);
  CHECK(f32_to_f8_e4m3(464) == 0x7e);  // past the largest
  CHECK(f32_to_f8_e4m3(0x1p-10f) == 0);  // a tie between 0 and the smallest
  CHECK(f8_e8m0_to_f32(0) == 0x1p-127f);
  CHECK(f8_e8m0_to_f32(127) == 1);
  CHECK(std::isnan(f8_e8m0_to_f32(255)));
  CHECK(round_to(DType::f8_e8m0, 5.9f) == 4);
}
