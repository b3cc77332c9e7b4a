#include "formats/gap_stream.h"

#include "core/random.h"
#include "tests/catch.h"

using namespace llmc;

namespace {

std::vector<int64_t> random_positions(int64_t limit, double share) {
  Random random(3, "gaps");
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < limit; ++i)
    if (random.uniform() < share) positions.push_back(i);
  return positions;
}

}  // namespace

TEST_CASE("positions come back from their gaps", "[gap_stream]") {
  for (int64_t limit : {1, 31, 255, 100000})
    for (double share : {0.001, 0.01, 0.2, 0.9, 1.0}) {
      const auto positions = random_positions(limit, share);
      const auto bytes = encode_gaps(positions);
      REQUIRE(static_cast<int64_t>(bytes.size()) == gap_bytes(positions));
      const auto back = decode_gaps(bytes, static_cast<int64_t>(positions.size()), limit);
      REQUIRE(back);
      REQUIRE(*back == positions);
    }
  const std::vector<int64_t> far = {0, int64_t{1} << 39};
  CHECK(decode_gaps(encode_gaps(far), 2, int64_t{1} << 40) == far);
  CHECK(encode_gaps({}).empty());
}

TEST_CASE("one position in 100 takes less than nine bits", "[gap_stream]") {
  // The entropy of such a gap is log2(100) + 1.44 = 8.08 bits; a Rice code loses up to half a bit.
  const auto positions = random_positions(1000000, 0.01);
  CHECK(8.0 * static_cast<double>(gap_bytes(positions)) / static_cast<double>(positions.size()) < 8.6);
}

TEST_CASE("streams that no positions make are refused", "[gap_stream]") {
  const std::vector<int64_t> positions = {3, 4, 90};
  const auto bytes = encode_gaps(positions);
  CHECK(decode_gaps(bytes, 3, 91));
  CHECK_FALSE(decode_gaps(bytes, 3, 90));  // past the end
  CHECK_FALSE(decode_gaps(bytes, 2, 91));  // one too many
  CHECK_FALSE(decode_gaps(bytes, 4, 91));  // one too few
  CHECK_FALSE(decode_gaps({}, 1, 91));
  CHECK_FALSE(decode_gaps(bytes, 0, 91));
  auto damaged = bytes;
  damaged[0] = std::byte{41};
  CHECK_FALSE(decode_gaps(damaged, 3, 91));
  damaged = bytes;
  damaged.push_back(std::byte{0});
  CHECK_FALSE(decode_gaps(damaged, 3, 91));
  const std::vector<std::byte> ones(1000, std::byte{0xff});
  CHECK_FALSE(decode_gaps(ones, 3, 91));
  const std::vector<int64_t> close = {0, 1, 2, 3, 4, 5, 6, 7, 8};  // r = 0: a bit each, the last in a byte of its own
  auto cut = encode_gaps(close);
  CHECK(decode_gaps(cut, 9, 9));
  cut.pop_back();
  CHECK_FALSE(decode_gaps(cut, 9, 9));
  std::vector<std::byte> long_run(1000, std::byte{0xff});
  long_run[0] = std::byte{40};
  CHECK_FALSE(decode_gaps(long_run, 3, int64_t{1} << 62));
}
