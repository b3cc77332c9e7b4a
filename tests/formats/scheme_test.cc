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
        for (int input_bits : {4, 8})
          for (Mapping input_mapping : {Mapping::symmetric, Mapping::linear})
            for (InputRange range : {InputRange::per_token, InputRange::calibrated}) {
              Scheme with_input = scheme;
              with_input.input = {.bits = input_bits, .mapping = input_mapping, .range = range};
              CHECK(parse_scheme(to_string(with_input)) == with_input);
              CHECK(with_input != scheme);
            }
      }
  CHECK(parse_scheme("W8A16") == Scheme{.bits = 8, .granularity = Granularity::channel});
  CHECK(parse_scheme("W4A16") == Scheme{.bits = 4, .granularity = Granularity::group, .group_size = 128});
  CHECK(to_string(parse_scheme("W4A16-g32-linear")) == "W4A16-g32-linear");
  CHECK(to_string(parse_scheme("W8A8")) == "W8A8-channel-symmetric-dynamic");
  CHECK(to_string(parse_scheme("W4A8-linear-static-linear")) == "W4A8-g128-linear-static-linear");
  CHECK(parse_scheme("W8A8-dynamic-linear").mapping == Mapping::symmetric);
}

TEST_CASE("grids that are not evenly spaced have the field's names", "[scheme]") {
  for (const Preset& preset : preset_list()) {
    CHECK(parse_scheme(std::string(preset.name)) == preset.scheme);
    CHECK(parse_scheme(to_string(preset.scheme)) == preset.scheme);
  }
  CHECK(to_string(parse_scheme("NF4")) == "NF4-g64");
  CHECK(to_string(parse_scheme("NF4-g32")) == "NF4-g32");
  CHECK(to_string(parse_scheme("FP8A16-tensor")) == "FP8A16-tensor");
  CHECK(to_string(parse_scheme("FP8_E5M2A16-g128")) == "FP8_E5M2A16-g128");
  CHECK(to_string(parse_scheme("codebook16")) == "codebook16-tensor");
  CHECK(parse_scheme("codebook17-g256") == Scheme{.bits = 5, .granularity = Granularity::group, .group_size = 256, .grid = GridKind::codebook, .centroids = 17});
  CHECK(parse_scheme("codebook2").bits == 1);
  CHECK(parse_scheme("codebook256").bits == 8);
  CHECK(parse_scheme("W4A16_ASYM") == parse_scheme("W4A16-linear"));
  CHECK(parse_scheme("codebook10").highest_code() - parse_scheme("codebook10").lowest_code() == 9);

  CHECK_THROWS_WITH(parse_scheme("NVFP4A16-g32"), Contains("NVFP4A16: the format has groups of 16 and nothing else"));
  CHECK_THROWS_WITH(parse_scheme("MXFP4A16-channel"), Contains("MXFP4A16: the format has groups of 32"));
  CHECK_THROWS_WITH(parse_scheme("NF4-linear"), Contains("makes sense only on an integer grid"));
  CHECK_THROWS_WITH(parse_scheme("codebook1"), Contains("expected 2 to 256 centroids, found 1"));
  CHECK_THROWS_WITH(parse_scheme("codebook257"), Contains("found 257"));
  CHECK_THROWS_WITH(parse_scheme("FP9"), Contains("'FP9' is not understood") && Contains("NVFP4A16"));
}

TEST_CASE("stored bits count scales and centroids", "[scheme]") {
  CHECK(stored_bits(parse_scheme("W4A16-g32-linear"), DType::bf16, 64, 128) == Approx(4 + 16.0 / 32 + 4.0 / 32));
  CHECK(stored_bits(parse_scheme("MXFP4A16"), DType::f8_e8m0, 64, 128) == Approx(4.25));
  CHECK(stored_bits(parse_scheme("NVFP4A16"), DType::f8_e4m3, 64, 128) == Approx(4.5 + 32.0 / 8192));
  CHECK(stored_bits(parse_scheme("codebook16-channel"), DType::bf16, 64, 128) == Approx(4 + 16 * 16 / 128.0));
}

TEST_CASE("impossible schemes are refused", "[scheme]") {
  for (const char* wrong : {"", "W4", "W4A7", "W4A", "W44A8", "W4A32", "W4A16-dynamic", "W4A8-dynamic-static", "W4A8-static-g32", "W4A8-dynamic-channel", "W1A16", "W9A16", "W4A16-", "W4A16-g0", "W4A16-gx", "W4A16-g-32", "W4A16-rows", "w4a16", "W4A16-g99999999999999999999"})
    CHECK_THROWS_AS(parse_scheme(wrong), Error);
  CHECK_THROWS_WITH(parse_scheme("W4A16-rows"), Contains("'rows' is not understood"));
  CHECK_THROWS_WITH(check_scheme({.bits = 8, .granularity = Granularity::group, .group_size = 16, .grid = GridKind::fp8_e4m3, .scale = ScaleKind::e4m3}), Contains("8-bit floats"));
  CHECK_THROWS_WITH(check_scheme({.bits = 8, .granularity = Granularity::channel, .group_size = 32}), Contains("only with granularity group"));
}

TEST_CASE("scales are stored in the type of a 16-bit weight", "[scheme]") {
  const Scheme group = parse_scheme("W4A16-g32"), channel = parse_scheme("W8A16");
  CHECK(scale_dtype_for(group, DType::f16) == DType::f16);
  CHECK(scale_dtype_for(channel, DType::bf16) == DType::bf16);
  CHECK(scale_dtype_for(channel, DType::f32) == DType::f32);
  CHECK(scale_dtype_for(group, DType::f32) == DType::bf16);
  CHECK(scale_dtype_for(parse_scheme("MXFP4A16"), DType::f16) == DType::f8_e8m0);
  CHECK(scale_dtype_for(parse_scheme("NVFP4A16"), DType::f32) == DType::f8_e4m3);
  CHECK(scale_dtype_for(parse_scheme("FP8A16"), DType::f16) == DType::f32);
}
