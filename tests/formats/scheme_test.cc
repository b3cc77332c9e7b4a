#include "formats/scheme.h"

#include "core/error.h"
#include "tests/catch.h"

using namespace llmc;
using Catch::Matchers::Contains;

TEST_CASE("schemes are read as they are printed", "[scheme]") {
  for (int bits = 2; bits <= 8; ++bits)
    for (Mapping mapping : {Mapping::symmetric, Mapping::linear})
      for (int64_t group : {0, 32}) {
        const Scheme scheme{.bits = bits, .mapping = mapping, .granularity = group ? Granularity::group : Granularity::tensor, .group_size = group};
        CHECK(parse_scheme(to_string(scheme)) == scheme);
      }
  CHECK(parse_scheme("W8A16") == Scheme{.bits = 8, .granularity = Granularity::channel});
  CHECK(parse_scheme("W4A16") == Scheme{.bits = 4, .granularity = Granularity::group, .group_size = 128});
  CHECK(to_string(parse_scheme("W4A16-g32-linear")) == "W4A16-g32-linear");
}

TEST_CASE("impossible schemes are refused", "[scheme]") {
  for (const char* wrong : {"", "W4", "W4A8", "W1A16", "W9A16", "W4A16-", "W4A16-g0", "W4A16-gx", "W4A16-g-32", "W4A16-rows", "w4a16", "W4A16-g99999999999999999999"})
    CHECK_THROWS_AS(parse_scheme(wrong), Error);
  CHECK_THROWS_WITH(parse_scheme("W4A16-rows"), Contains("'rows' is not understood"));
  CHECK_THROWS_WITH(check_scheme({.bits = 8, .granularity = Granularity::channel, .group_size = 32}), Contains("only with granularity group"));
}

TEST_CASE("scales are stored in the type of a 16-bit weight", "[scheme]") {
  const Scheme group = parse_scheme("W4A16-g32"), channel = parse_scheme("W8A16");
  CHECK(scale_dtype_for(group, DType::f16) == DType::f16);
  CHECK(scale_dtype_for(channel, DType::bf16) == DType::bf16);
  CHECK(scale_dtype_for(channel, DType::f32) == DType::f32);
  CHECK(scale_dtype_for(group, DType::f32) == DType::bf16);
}
