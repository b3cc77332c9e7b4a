#include "formats/gguf_types.h"

#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "core/error.h"
#include "formats/gguf/layouts.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

namespace {

std::filesystem::path golden(const GgufTypeInfo& type, const std::string& what) { return std::filesystem::path(LLMC_SOURCE_DIR) / "tests/golden/gguf" / (std::string(type.name) + "." + what + ".npy"); }

/// A block of anything that is written: every code, scale and minimum of the grid.
Block random_block(const GgufTypeInfo& type, Random& random) {
  const BlockGrid& grid = type.grid;
  Block block;
  const auto any = [&](int low, int high) { return static_cast<float>(low + static_cast<int>(random.below(static_cast<uint64_t>(high - low + 1)))); };
  const auto f16 = [&] { return round_to(DType::f16, static_cast<float>(random.normal())); };
  if (grid.scale == BlockScale::f16 || grid.scale == BlockScale::integer) block.d = f16();
  if (grid.min != BlockMin::none) block.dmin = f16();
  block.scales.fill(1);
  block.mins.fill(grid.min == BlockMin::none ? 0 : 1);
  for (size_t k = 0; k < static_cast<size_t>(type.spans()); ++k) {
    if (grid.scale == BlockScale::integer) block.scales[k] = any(grid.lowest_scale, grid.highest_scale);
    if (grid.min == BlockMin::integer) block.mins[k] = any(0, grid.highest_scale);
    if (grid.scale == BlockScale::e8m0) block.scales[k] = std::ldexp(1.0f, static_cast<int>(any(-100, 100)));
    if (grid.scale == BlockScale::e4m3) block.scales[k] = f8_e4m3_to_f32(static_cast<uint8_t>(any(0, 0x7e))) / 2;
  }
  block.codes.fill(0);
  for (size_t i = 0; i < static_cast<size_t>(type.block); ++i) block.codes[i] = static_cast<uint8_t>(any(grid.lowest_code, grid.highest_code));
  return block;
}

}  // namespace

TEST_CASE("Every GGUF type decodes as the gguf package does", "[gguf]") {
  for (const GgufTypeInfo& type : gguf_type_list()) {
    if (type.type == GgufType::f32) continue;
    INFO(type.name);
    const auto bytes = read_golden<uint8_t>(golden(type, "bytes"), DType::u8);
    const auto expected = read_golden<float>(golden(type, "values"), DType::f32);
    REQUIRE(bytes.shape[1] == type.bytes);
    REQUIRE(expected.shape[1] == type.block);
    std::vector<float> values(expected.values.size());
    decode_gguf(type, std::as_bytes(std::span(bytes.values)), values);
    CHECK(std::memcmp(values.data(), expected.values.data(), values.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("What a block says survives packing", "[gguf]") {
  Random random(7, "gguf blocks");
  for (const GgufTypeInfo& type : gguf_type_list()) {
    if (type.dtype) continue;
    INFO(type.name);
    for (int round = 0; round < 50; ++round) {
      const Block block = random_block(type, random);
      std::vector<uint8_t> bytes(static_cast<size_t>(type.bytes)), again(bytes.size());
      type.pack(block, bytes.data());
      Block back;
      type.unpack(bytes.data(), back);
      const auto weights = static_cast<size_t>(type.block), spans = static_cast<size_t>(type.spans());
      CHECK(back.d == block.d);
      CHECK(back.dmin == block.dmin);
      CHECK(std::equal(block.scales.begin(), block.scales.begin() + static_cast<ptrdiff_t>(spans), back.scales.begin()));
      if (type.grid.min != BlockMin::none) CHECK(std::equal(block.mins.begin(), block.mins.begin() + static_cast<ptrdiff_t>(spans), back.mins.begin()));
      CHECK(std::equal(block.codes.begin(), block.codes.begin() + static_cast<ptrdiff_t>(weights), back.codes.begin()));
      type.pack(back, again.data());
      CHECK(again == bytes);
    }
  }
}

TEST_CASE("Sixteen blocks side by side are packed as each one alone", "[gguf]") {
  constexpr auto lanes = static_cast<size_t>(gguf::LaneLayout::lanes);
  Random random(9, "gguf lanes");
  for (const auto& [name, layout] : {std::pair{GgufType::q4_0, &gguf::q4_0_lanes}, {GgufType::q8_0, &gguf::q8_0_lanes}, {GgufType::q3_k, &gguf::q3_k_lanes}}) {
    const GgufTypeInfo& type = get_info(name);
    INFO(type.name);
    std::vector<Block> blocks;
    std::vector<uint8_t> codes(static_cast<size_t>(type.block) * lanes), packed(layout->bytes * lanes);
    for (size_t lane = 0; lane < lanes; ++lane) {
      blocks.push_back(random_block(type, random));
      for (size_t i = 0; i < static_cast<size_t>(type.block); ++i) codes[i * lanes + lane] = blocks[lane].codes[i];
    }
    layout->pack_codes(codes.data(), packed.data());
    for (size_t lane = 0; lane < lanes; ++lane) {
      std::vector<uint8_t> expected(static_cast<size_t>(type.bytes)), bytes(expected.size(), 0xaa);
      type.pack(blocks[lane], expected.data());
      for (size_t i = 0; i < layout->bytes; ++i) bytes[layout->first + i] = packed[i * lanes + lane];
      layout->pack_scales(blocks[lane], bytes.data());
      CHECK(bytes == expected);
    }
  }
}

TEST_CASE("The table of GGUF types is whole", "[gguf]") {
  std::set<uint32_t> ids;
  for (size_t i = 0; i < gguf_type_list().size(); ++i) {
    const GgufTypeInfo& type = gguf_type_list()[i];
    INFO(type.name);
    CHECK(static_cast<size_t>(type.type) == i);
    CHECK(&get_info(type.type) == &type);
    CHECK(find_gguf_type(type.id) == &type);
    CHECK(find_gguf_type(type.name) == &type);
    CHECK(ids.insert(type.id).second);
    CHECK(type.dtype.has_value() == (type.pack == nullptr));
    if (type.dtype) continue;
    CHECK(type.block % type.grid.span == 0);
    CHECK(type.spans() <= Block::most_spans);
    CHECK(std::ranges::is_sorted(type.grid.levels));
    CHECK(type.grid.highest_code < static_cast<int>(type.grid.levels.size()));
  }
  CHECK(find_gguf_type("q4_k") == &get_info(GgufType::q4_k));
  CHECK(get_info(GgufType::q4_k).bits_per_weight() == 4.5);
  CHECK(gguf_bytes(get_info(GgufType::q6_k), 512) == 420);
}

TEST_CASE("GGUF types that are not read are named", "[gguf]") {
  CHECK_THROWS_WITH(get_gguf_type(16, "a.gguf: tensor x"), Catch::Contains("a.gguf: tensor x: tensor type IQ2_XXS is not supported; expected one of F32, F16"));
  CHECK_THROWS_WITH(get_gguf_type(4, "a.gguf: tensor x"), "a.gguf: tensor x: tensor type 4 is not one of ggml's");
  CHECK_THROWS_WITH(get_gguf_type("Q9_K", "--type"), Catch::Contains("--type: GGUF type 'Q9_K' is not known; expected one of F32"));
}
