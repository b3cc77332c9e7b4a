// Every way to say positions gives them back, in the documented bits, and refuses what contradicts itself.
#include "formats/codecs/positions.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/random.h"
#include "formats/codecs/packed_codecs.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

const PositionCode* all_ways[] = {&bitmask_positions, &gap_positions, &coordinate_positions, &row_positions, &n_of_m_positions, &block_positions};

KeptElements random_elements(int64_t rows, int64_t cols, double share) {
  KeptElements kept{.rows = rows, .cols = cols, .value_bits = 16, .kept = std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
  Random random(3, "positions");
  for (uint8_t& mark : kept.kept) mark = random.uniform() < share;
  return kept;
}

/// Two of every four along a row.
KeptElements two_of_four(int64_t rows, int64_t cols) {
  KeptElements kept = random_elements(rows, cols, 0);
  Random random(4, "two of four");
  for (size_t begin = 0; begin < kept.kept.size(); begin += 4) {
    const uint64_t first = random.below(4);
    kept.kept[begin + first] = kept.kept[begin + (first + 1 + random.below(3)) % 4] = 1;
  }
  return kept;
}

KeptElements blocks_of(int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols) {
  KeptElements kept = random_elements(rows, cols, 0);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) kept.kept[static_cast<size_t>(r * cols + c)] = (r / block_rows * 7 + c / block_cols * 5) % 3 == 0;
  return kept;
}

EncodedData as_read(const std::vector<EncodedPart>& parts) {
  EncodedData data;
  for (const EncodedPart& part : parts) data.parts[part.layout.name] = {part.layout.dtype, part.layout.shape, part.own};
  return data;
}

StoredTensor named(const KeptElements& kept) { return {.name = "t.weight", .dtype = DType::bf16, .shape = {kept.rows, kept.cols}}; }

int64_t total(const std::vector<EncodedPart>& parts) {
  int64_t bytes = 0;
  for (const EncodedPart& part : parts) bytes += static_cast<int64_t>(part.own.size());
  return bytes;
}

EncodedPart& find(std::vector<EncodedPart>& parts, std::string_view name) { return *std::ranges::find(parts, name, [](const EncodedPart& part) { return std::string_view(part.layout.name); }); }

}  // namespace

TEST_CASE("positions come back in order and hold all that is kept", "[positions]") {
  std::vector<KeptElements> cases = {two_of_four(33, 36), blocks_of(64, 96, 4, 8), blocks_of(33, 7, 1, 7)};
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {1, 31}, {33, 1}, {3, 255}, {7, 64}, {31, 700}})
    for (double share : {0.0, 0.001, 0.05, 0.5, 0.9, 1.0}) cases.push_back(random_elements(rows, cols, share));
  for (const KeptElements& kept : cases)
    for (const PositionCode* way : all_ways) {
      const StoredPositions stored = way->encode(kept);
      const auto most = static_cast<int64_t>(stored.order.size());
      REQUIRE(way->decode(named(kept), as_read(stored.parts), {.rows = kept.rows, .cols = kept.cols, .most = most}) == stored.order);
      std::vector<uint8_t> seen(kept.kept.size());
      for (uint32_t position : stored.order) REQUIRE(++seen.at(position) == 1);
      for (size_t i = 0; i < seen.size(); ++i) REQUIRE(seen[i] >= kept.kept[i]);
    }
}

TEST_CASE("each way takes the bits that it should", "[positions]") {
  const KeptElements nm = two_of_four(64, 64);
  CHECK(total(n_of_m_positions.encode(nm).parts) == 2 + 64 * 64 / 4 * 3 / 8);  // the size, and one of 6 combinations in 3 bits
  CHECK(n_of_m_positions.encode(nm).order.size() == 64 * 64 / 2);
  const KeptElements blocks = blocks_of(64, 96, 4, 8);
  CHECK(total(block_positions.encode(blocks).parts) == 2 + 64 * 96 / 32 / 8);
  CHECK(static_cast<int64_t>(block_positions.encode(blocks).order.size()) == blocks.number());
  const KeptElements sparse = random_elements(31, 700, 0.05);
  CHECK(total(gap_positions.encode(sparse).parts) < total(coordinate_positions.encode(sparse).parts));
  CHECK(total(coordinate_positions.encode(sparse).parts) < total(bitmask_positions.encode(sparse).parts));
  CHECK(total(row_positions.encode(sparse).parts) <= total(coordinate_positions.encode(sparse).parts) + 31);
  CHECK(total(bitmask_positions.encode(sparse).parts) == (31 * 700 + 7) / 8);
}

TEST_CASE("skips are as documented, across more than 255 elements", "[positions]") {
  KeptElements kept = random_elements(2, 400, 0);
  kept.kept[2] = kept.kept[3] = kept.kept[399] = kept.kept[700] = 1;  // before the third 395 are skipped, then 300
  const auto parts = coordinate_positions.encode(kept).parts;
  CHECK(parts[0].layout.dtype == DType::u8);
  CHECK(parts[0].own == std::vector<std::byte>{std::byte{2}, std::byte{0}, std::byte{255}, std::byte{140}, std::byte{255}, std::byte{45}});
  const auto rows = row_positions.encode(kept).parts;
  CHECK(rows[0].own == std::vector<std::byte>{std::byte{3}, std::byte{1}});
  CHECK(rows[1].own == std::vector<std::byte>{std::byte{2}, std::byte{0}, std::byte{255}, std::byte{140}, std::byte{255}, std::byte{45}});
}

TEST_CASE("positions that contradict themselves are refused by name", "[positions]") {
  const KeptElements kept = two_of_four(8, 40);
  const auto refuse = [&](const PositionCode& way, auto&& damage, const char* words) {
    StoredPositions stored = way.encode(kept);
    damage(stored.parts);
    INFO(words);
    CHECK_THROWS_WITH(way.decode(named(kept), as_read(stored.parts), {.rows = 8, .cols = 40, .most = 160}), Contains("tensor t.weight: part ") && Contains(words));
  };
  const auto set = [](const char* part, size_t at, int value) {
    return [=](std::vector<EncodedPart>& parts) { find(parts, part).own.at(at) = static_cast<std::byte>(value); };
  };
  const auto cut = [](const char* part, int64_t by) {
    return [=](std::vector<EncodedPart>& parts) {
      EncodedPart& found = find(parts, part);
      found.layout.shape[0] -= by;
      found.own.resize(static_cast<size_t>(found.layout.bytes()));
    };
  };
  refuse(bitmask_positions, cut("mask", 1), "mask: expected U8 [40], found U8 [39]");
  refuse(gap_positions, set("kept", 0, 161), "gaps: does not say 161 positions below 320");
  refuse(gap_positions, set("kept", 3, 255), "positions below 320");
  refuse(gap_positions, cut("gaps", 1), "gaps: does not say 160 positions");
  refuse(coordinate_positions, set("skips", 159, 90), "skips: entry 159 leads to element 4");
  refuse(coordinate_positions, [](auto& parts) { find(parts, "skips").layout.dtype = DType::f16, find(parts, "skips").layout.shape[0] /= 2; }, "expected a list in U8 or wider, found F16");
  refuse(row_positions, set("row_counts", 0, 21), "");
  refuse(row_positions, set("row_counts", 7, 19), "skips: has 160 entries, the rows use 159");
  refuse(row_positions, set("row_counts", 7, 41), "row_counts: row 7 has 41 elements of 40");
  refuse(row_positions, cut("row_counts", 1), "row_counts: expected 8 rows, found 7");
  refuse(row_positions, cut("skips", 1), "skips: ends after 159 entries, 1 elements short");
  refuse(row_positions, set("skips", 3, 200), "skips: entry 3 leads to element");
  refuse(n_of_m_positions, set("places", 0, 0xff), "places: group 0 has rank 7, expected less than 6");
  refuse(n_of_m_positions, set("group", 0, 0), "group: 0 of 4 makes no sense");
  refuse(n_of_m_positions, set("group", 0, 5), "group: 5 of 4 makes no sense");
  refuse(n_of_m_positions, set("group", 1, 3), "group: 2 of 3 makes no sense for rows of 40");
  refuse(n_of_m_positions, set("group", 0, 4), "group: 4 of 4 in 320 elements: expected at most 160 stored");
  refuse(n_of_m_positions, cut("places", 1), "places: expected U8 [30], found U8 [29]");
  const KeptElements whole = blocks_of(8, 40, 2, 4);
  const auto refuse_blocks = [&](auto&& damage, const char* words) {
    StoredPositions stored = block_positions.encode(whole);
    damage(stored.parts);
    CHECK_THROWS_WITH(block_positions.decode(named(whole), as_read(stored.parts), {.rows = 8, .cols = 40, .most = whole.number()}), Contains("tensor t.weight: part ") && Contains(words));
  };
  refuse_blocks(set("block", 0, 0), "block: blocks of 0 x 4 make no sense");
  refuse_blocks(set("block", 1, 65), "block: blocks of 2 x 65 make no sense");
  refuse_blocks(set("block", 1, 3), "block: blocks of 2 x 3 make no sense for 8 rows of 40");
  refuse_blocks(cut("block_mask", 1), "block_mask: expected U8 [5], found U8 [4]");
  refuse_blocks(set("block_mask", 0, 0xff), "block_mask:");
}

TEST_CASE("a small file does not make a reader allocate a large matrix", "[positions]") {
  for (const char* name : {"gaps", "coo", "csr", "n-of-m", "blocks", "bitmask+packed-codes", "gaps+packed-codes", "coo+packed-codes", "csr+packed-codes", "n-of-m+packed-codes", "blocks+packed-codes"})
    for (const Shape& shape : {Shape{int64_t{1} << 20, int64_t{1} << 11}, Shape{int64_t{1} << 31, int64_t{1} << 31}, Shape{8, int64_t{1} << 28}}) {
      const Codec& codec = *find_packed_codec(name);
      Matrix values = test::random_matrix(8, 40, "small");
      for (size_t i = 0; i < values.values().size(); i += 2) values.values()[i] = 0;
      StoredTensor tensor = test::make_tensor("t.weight", DType::bf16, values);
      tensor.pruned = true;
      if (codec.holds_codes) tensor.form = round_to_nearest(values.view(), parse_scheme("W4A16-tensor"), DType::bf16, {}, "t");
      const std::vector<EncodedPart> parts = codec.encode(tensor);
      EncodedData data = as_read(parts);
      data.codec = &codec;
      if (codec.holds_codes) data.scheme = parse_scheme("W4A16-tensor");
      StoredTensor claimed{.name = "t.weight", .dtype = DType::bf16, .shape = shape, .pruned = true, .form = std::move(data)};
      INFO(name << " " << to_string(shape));
      CHECK_THROWS_WITH(decode(claimed), Contains("tensor t.weight"));
    }
}
