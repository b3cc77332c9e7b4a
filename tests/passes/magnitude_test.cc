#include "passes/magnitude.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

/// The plain rule: sort by magnitude, then by position; the first `zeros` go.
std::vector<float> zero_smallest_reference(std::vector<float> values, size_t zeros) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return std::abs(values[a]) < std::abs(values[b]); });
  for (size_t i = 0; i < zeros; ++i) values[order[i]] = 0;
  return values;
}

std::vector<float> values_with_ties(size_t count) {
  const Matrix random = test::random_matrix(1, static_cast<int64_t>(count), "ties");
  std::vector<float> values;
  for (float x : random.values()) values.push_back(std::round(x * 4) / 4);  // many equal magnitudes, zeros and both signs
  return values;
}

}  // namespace

TEST_CASE("the smallest go, ties by position, as in the plain rule", "[magnitude]") {
  for (size_t count : {1u, 31u, 33u, 255u})
    for (size_t zeros : {size_t{0}, size_t{1}, count / 2, count}) {
      const std::vector<float> before = values_with_ties(count);
      std::vector<float> after = before;
      const int64_t changed = zero_smallest(after, static_cast<int64_t>(zeros));
      CHECK(after == zero_smallest_reference(before, zeros));
      CHECK(changed == std::ranges::count(after, 0.0f) - std::ranges::count(before, 0.0f));
    }
}

TEST_CASE("N:M keeps the N largest of every M", "[magnitude]") {
  std::vector<float> row = {1, -4, 3, 2, 0, 0, 0, -1, 5, 5, 5, 5};
  CHECK(zero_pattern(row, 2, 4) == 4);
  CHECK(row == std::vector<float>{0, -4, 3, 0, 0, 0, 0, -1, 0, 0, 5, 5});
}

TEST_CASE("the global threshold equals ranking everything together", "[magnitude]") {
  for (size_t zeros : {1u, 100u, 400u, 700u}) {
    const std::vector<float> all = values_with_ties(765);
    std::vector<std::vector<float>> tensors;
    for (size_t at = 0; at < all.size(); at += 255) tensors.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(at), all.begin() + static_cast<std::ptrdiff_t>(at + 255));
    MagnitudeThreshold threshold(static_cast<int64_t>(zeros));
    for (int pass = 0; pass < 2; ++pass) {
      for (const auto& tensor : tensors) threshold.count(tensor);
      threshold.refine();
    }
    std::vector<float> result;
    for (auto& tensor : tensors) {
      threshold.zero(tensor);
      result.insert(result.end(), tensor.begin(), tensor.end());
    }
    CHECK(result == zero_smallest_reference(all, zeros));
  }
}
