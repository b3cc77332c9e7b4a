#include "passes/span_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/dtype.h"
#include "passes/grid.h"
#include "tests/catch.h"
#include "tests/support.h"
#include "tests/vector_targets.h"

using namespace llmc;

namespace {

/// Random bf16 values, some of them 0, with spans of zeros, of one sign and of other sizes among them; as floats and as they lie in a file, at an odd address.
struct Row {
  Row(size_t count, size_t width) : floats(count * width), stored(2 * count * width + 1) {
    const Matrix random = test::random_matrix(1, static_cast<int64_t>(floats.size()), "row", 0.02);
    for (size_t i = 0; i < floats.size(); ++i) {
      const size_t span = i / width;
      float x = random.values()[i];
      if (span % 7 == 1 || i % 13 == 5) x = 0;
      if (span % 7 == 2) x = std::abs(x);
      if (span % 7 == 3) x = -std::abs(x);
      if (span % 7 == 4) x = std::copysign(0x1p-123f, x) * static_cast<float>(1 + i % 3);  // inverses of scales overflow
      if (span % 7 == 5) x = std::ldexp(std::round(x * 256), -4);  // places next to a half
      floats[i] = round_to(DType::bf16, x);
    }
    encode_floats(DType::bf16, floats, bytes());
  }
  std::span<std::byte> bytes() { return std::span(stored).subspan(1); }

  std::vector<float> floats;
  std::vector<std::byte> stored;
};

/// Grids of the spans of a row by the kernels, and codes on them.
struct Found {
  Found(const auto& row, size_t count, size_t width, const Scheme& scheme, DType dtype) : lows(count), highs(count), scales(count), inverses(count), zeros(count), codes(count * width) {
    const bool is_linear = scheme.mapping == Mapping::linear;
    const auto lowest = static_cast<float>(scheme.lowest_code()), highest = static_cast<float>(scheme.highest_code());
    find_ranges(row, width, lows, highs);
    find_scales(lows, highs, is_linear, is_linear ? highest - lowest : highest, scales);
    for (float& scale : scales) scale = round_to(dtype, scale);
    CHECK(invert_scales(scales, inverses));
    if (is_linear) find_zeros(lows, scales, lowest, highest, zeros);
    code_spans(row, {.width = width, .scales = scales, .inverses = inverses, .zeros = zeros, .lowest = lowest, .highest = highest}, codes);
  }

  std::vector<float> lows, highs, scales, inverses, zeros;
  std::vector<int8_t> codes;
};

}  // namespace

TEST_CASE("spans of a row get the grids and codes of the plain reference", "[span_kernels]") {
  test::for_each_target([] {
    for (const char* name : {"W8A16-channel", "W4A16-channel", "W8A16-channel-linear", "W3A16-channel-linear"})
      for (const DType dtype : {DType::f32, DType::bf16})
        for (const size_t width : {1, 2, 16, 31, 32, 64, 100, 257})
          for (const size_t count : {1, 23}) {
            CAPTURE(name, get_info(dtype).name, width, count);
            const Scheme scheme = parse_scheme(name);
            Row row(count, width);
            const Found found(std::span<const float>(row.floats), count, width, scheme, dtype), of_halves(Bf16Row(row.bytes()), count, width, scheme, dtype);
            CHECK(of_halves.scales == found.scales);
            CHECK(of_halves.zeros == found.zeros);
            CHECK(of_halves.codes == found.codes);
            for (size_t s = 0; s < count; ++s) {
              const auto span = std::span<const float>(row.floats).subspan(s * width, width);
              const auto columns = static_cast<int64_t>(width);
              const Grid grid = choose_grid({span.data(), 1, columns, columns}, {}, scheme, dtype, {}, "t", 0);
              REQUIRE(found.lows[s] == std::ranges::min(span));
              REQUIRE(found.highs[s] == std::ranges::max(span));
              REQUIRE(found.scales[s] == grid.scale);
              REQUIRE(found.zeros[s] == grid.zero);
              for (size_t i = 0; i < width; ++i) REQUIRE(found.codes[s * width + i] == static_cast<int>(grid.code(span[i])));
            }
          }
  });
}

TEST_CASE("scales that are no scales are found", "[span_kernels]") {
  test::for_each_target([] {
    std::vector<float> scales(37, 0.5f), inverses(37);
    CHECK(invert_scales(scales, inverses));
    CHECK(std::ranges::count(inverses, 2.0f) == 37);
    for (const size_t at : {0, 16, 36})
      for (const float bad : {0.0f, -1.0f, INFINITY, NAN}) {
        CAPTURE(at, bad);
        scales[at] = bad;
        CHECK_FALSE(invert_scales(scales, inverses));
        scales[at] = 1e-41f;  // a scale without an inverse
        CHECK(invert_scales(scales, inverses));
        CHECK(std::isnan(inverses[at]));
        scales[at] = 0.5f;
      }
  });
}
