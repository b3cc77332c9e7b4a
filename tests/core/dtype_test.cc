#include "core/dtype.h"

#include <bit>
#include <cmath>
#include <cstring>
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

TEST_CASE("E4M3 and E5M2 survive widening and narrowing, and narrowing rounds to nearest even", "[dtype]") {
  for (DType dtype : {DType::f8_e4m3, DType::f8_e5m2}) {
    const auto widen = [&](uint32_t bits) {
      const std::byte byte{static_cast<uint8_t>(bits)};
      float value = 0;
      decode_floats(dtype, {&byte, 1}, {&value, 1});
      return value;
    };
    const auto narrow = [&](float value) {
      std::byte byte{};
      encode_floats(dtype, {&value, 1}, {&byte, 1});
      return std::to_integer<uint32_t>(byte);
    };
    for (uint32_t bits = 0; bits < 256; ++bits) {
      if (std::isnan(widen(bits))) CHECK(std::isnan(widen(narrow(widen(bits)))));
      else REQUIRE(narrow(widen(bits)) == bits);
    }
    const uint32_t largest = dtype == DType::f8_e4m3 ? 0x7e : 0x7b;
    for (uint32_t bits = 0; bits < largest; ++bits) {
      const float low = widen(bits), high = widen(bits + 1), middle = (low + high) / 2;
      REQUIRE(narrow(middle) == (bits % 2 == 0 ? bits : bits + 1));
      REQUIRE(narrow(std::nextafter(middle, 0.0f)) == bits);
      REQUIRE(narrow(std::nextafter(middle, INFINITY)) == bits + 1);
      REQUIRE(narrow(-middle) == (narrow(middle) | 0x80));
      CHECK(round_to(dtype, middle) == widen(narrow(middle)));
    }
  }
  float value = 61440;
  CHECK(std::isinf(round_to(DType::f8_e5m2, value)));
  CHECK(round_to(DType::f8_e5m2, std::nextafter(value, 0.0f)) == 57344);
}

TEST_CASE("F64 is rounded to nearest, and widened exactly", "[dtype]") {
  const double wide[] = {1.0 + 0x1p-24, 1.0 + 0x1.8p-23, -0.1, 1e300, 0x1p-149};
  float narrow[5];
  decode_floats(DType::f64, std::as_bytes(std::span(wide)), narrow);
  CHECK(narrow[0] == 1.0f);
  CHECK(narrow[1] == 1.0f + 0x1p-22f);
  CHECK(narrow[2] == -0.1f);
  CHECK(std::isinf(narrow[3]));
  CHECK(narrow[4] == 0x1p-149f);
  double back[5];
  encode_floats(DType::f64, narrow, std::as_writable_bytes(std::span(back)));
  CHECK(back[2] == double{-0.1f});
}

TEST_CASE("many floats are narrowed to bf16 as one is", "[dtype]") {
  for (const size_t count : {1, 16, 37}) {
    std::vector<float> values(count);
    std::vector<std::byte> bytes(2 * count);
    for (uint64_t pattern = 0; pattern < uint64_t{1} << 32; pattern += 0x7ff1 * count) {
      for (size_t i = 0; i < count; ++i) values[i] = std::bit_cast<float>(static_cast<uint32_t>(pattern + 0x7ff1 * i));
      encode_floats(DType::bf16, values, bytes);
      for (size_t i = 0; i < count; ++i) {
        uint16_t bits;
        std::memcpy(&bits, bytes.data() + 2 * i, 2);
        CAPTURE(values[i]);
        REQUIRE(bits == f32_to_bf16(values[i]));
      }
    }
  }
  for (const float value : {INFINITY, -INFINITY, std::bit_cast<float>(0x7f800001u), std::bit_cast<float>(0xffffffffu), std::bit_cast<float>(0x7f7fffffu), 1e-45f, -0.0f}) {
    std::vector<std::byte> bytes(32);
    encode_floats(DType::bf16, std::vector<float>(16, value), bytes);
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + 14, 2);
    CHECK(bits == f32_to_bf16(value));
  }
}

TEST_CASE("encode_floats and decode_floats work on unaligned bytes", "[dtype]") {
  for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16})
    for (size_t count : {0u, 1u, 31u, 33u}) {
      std::vector<float> values(count);
      for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i) - 7.5f;
      std::vector<std::byte> storage(count * get_info(dtype).bytes + 1);
      const std::span<std::byte> bytes = std::span(storage).subspan(1);
      encode_floats(dtype, values, bytes);
      std::vector<float> back(count);
      decode_floats(dtype, bytes, back);
      CHECK(back == values);  // small halves are exact in all of them
    }
}
