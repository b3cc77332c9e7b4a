#include "core/dtype.h"

#include <bit>
#include <cmath>
#include <vector>

#include "tests/catch.h"

using namespace llmc;

TEST_CASE("every dtype is found by its name", "[dtype]") {
  for (const DTypeInfo& info : dtype_list()) {
    CHECK(find_dtype(info.name) == info.dtype);
    CHECK(get_info(info.dtype).name == info.name);
  }
  CHECK_FALSE(find_dtype("F12"));
}

TEST_CASE("all 65536 f16 and bf16 values survive widening and narrowing", "[dtype]") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = f16_to_f32(half);
    if (std::isnan(wide)) CHECK(std::isnan(f16_to_f32(f32_to_f16(wide))));
    else REQUIRE(f32_to_f16(wide) == half);
    const float brain = bf16_to_f32(half);
    if (std::isnan(brain)) CHECK(std::isnan(bf16_to_f32(f32_to_bf16(brain))));
    else REQUIRE(f32_to_bf16(brain) == half);
  }
}

TEST_CASE("narrowing rounds to nearest even", "[dtype]") {
  // Between each pair of neighbours the midpoint goes to the even one, and points beside it to the nearer.
  for (uint32_t bits = 0; bits + 1 < 0x7c00; ++bits) {
    const float low = f16_to_f32(static_cast<uint16_t>(bits)), high = f16_to_f32(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;  // exact: f32 has 13 more bits
    REQUIRE(f32_to_f16(middle) == (bits % 2 == 0 ? bits : bits + 1));
    REQUIRE(f32_to_f16(std::nextafter(middle, 0.0f)) == bits);
    REQUIRE(f32_to_f16(std::nextafter(middle, INFINITY)) == bits + 1);
  }
  CHECK(f32_to_f16(65519.0f) == 0x7bff);
  CHECK(f32_to_f16(65520.0f) == 0x7c00);
  CHECK(f32_to_bf16(std::bit_cast<float>(0x3f808000u)) == 0x3f80);
  CHECK(f32_to_bf16(std::bit_cast<float>(0x3f818000u)) == 0x3f82);
}

TEST_CASE("encode_floats and decode_floats work on unaligned bytes", "[dtype]") {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (size_t count : {0u, 1u, 31u, 33u}) {
      std::vector<float> values(count);
      for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i) - 7.5f;
      std::vector<std::byte> storage(count * get_info(dtype).bytes + 1);
      const std::span<std::byte> bytes = std::span(storage).subspan(1);
      encode_floats(dtype, values, bytes);
      std::vector<float> back(count);
      decode_floats(dtype, bytes, back);
      CHECK(back == values);  // small halves are exact in all three
    }
}
