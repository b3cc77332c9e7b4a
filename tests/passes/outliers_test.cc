#include "passes/outliers.h"

#include <algorithm>
#include <cmath>

#include "formats/gap_stream.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

TEST_CASE("the largest weights are taken out and nothing else changes", "[outliers]") {
  const StoredTensor tensor = test::make_tensor("w", DType::bf16, test::random_matrix(33, 31, "outliers"));
  const Matrix before = read_matrix(tensor);
  for (double share : {0.0, 0.0009, 0.01, 0.3}) {
    Matrix rest = before;
    const Outliers outliers = take_outliers(rest, share, DType::bf16);
    const auto count = static_cast<size_t>(share * 33 * 31);
    REQUIRE(outliers.positions.size() == count);
    REQUIRE(outliers.values.size() == count);
    REQUIRE(std::ranges::is_sorted(outliers.positions));
    std::vector<float> sizes;
    for (float x : before.values()) sizes.push_back(std::abs(x));
    std::ranges::sort(sizes, std::ranges::greater());
    for (size_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(outliers.positions[i]);
      REQUIRE(outliers.values[i] == before.values()[at]);
      REQUIRE(rest.values()[at] == 0);
      REQUIRE(std::abs(outliers.values[i]) >= sizes[count - 1]);
      rest.values()[at] = before.values()[at];
    }
    REQUIRE(std::ranges::equal(rest.values(), before.values()));
  }
}

TEST_CASE("among equals the first in memory are taken", "[outliers]") {
  Matrix weights(2, 4);
  std::ranges::fill(weights.values(), -0.5f);
  CHECK(take_outliers(weights, 0.5, DType::f16).positions == std::vector<int64_t>{0, 1, 2, 3});
}

TEST_CASE("what 16 bits cannot hold of an f32 weight stays with the rest", "[outliers]") {
  Matrix weights(1, 2);
  weights.row(0)[0] = 1.001f;
  const Outliers outliers = take_outliers(weights, 0.5, DType::bf16);
  CHECK(outliers.values[0] == 1.0f);
  CHECK(weights.row(0)[0] == 1.001f - 1.0f);
}

TEST_CASE("the bits that a dry run announces are about those that are stored", "[outliers]") {
  for (double share : {0.002, 0.01, 0.05}) {
    Matrix weights = test::random_matrix(500, 400, "bits");
    const Outliers outliers = take_outliers(weights, share, DType::bf16);
    const double stored = (16.0 * static_cast<double>(outliers.values.size()) + 8.0 * static_cast<double>(gap_bytes(outliers.positions))) / 200000;
    CHECK(outlier_bits(share) == Approx(stored).epsilon(0.03));  // the announced gap is rounded
  }
}
