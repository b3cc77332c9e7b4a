#include "passes/mask.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

constexpr SparsityPattern unstructured;

Matrix values_with_ties(int64_t rows, int64_t cols) {
  Matrix values = test::random_matrix(rows, cols, "ties");
  for (float& x : values.values()) x = std::round(x * 4) / 4;  // many equal magnitudes, zeros and both signs
  return values;
}

Matrix one_row(std::vector<float> values) {
  Matrix row(1, static_cast<int64_t>(values.size()));
  std::ranges::copy(values, row.row(0));
  return row;
}

/// The plain rule: sort by score, then by position; the first `gone` of the positions given go.
void mark_plainly(std::span<const double> scores, std::vector<size_t> positions, int64_t gone, std::vector<uint8_t>& marks) {
  std::ranges::stable_sort(positions, [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  for (int64_t i = 0; i < gone; ++i) marks[positions[static_cast<size_t>(i)]] = 1;
}

/// Every unit of a pattern, one by one.
std::vector<uint8_t> plain_mask(const Matrix& values, const SparsityPattern& pattern, RankScope scope, int64_t gone) {
  const int64_t rows = values.rows() / pattern.block_rows, cols = values.cols() / pattern.block_cols;
  std::vector<double> scores;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < pattern.block_rows * pattern.block_cols; ++i) {
        const double x = values.row(r * pattern.block_rows + i / pattern.block_cols)[c * pattern.block_cols + i % pattern.block_cols];
        sum += x * x;
      }
      scores.push_back(static_cast<float>(std::sqrt(sum)));
    }
  std::vector<uint8_t> units(scores.size());
  const int64_t together = pattern.is_n_of_m() ? pattern.group : scope == RankScope::row ? cols : rows * cols;
  for (int64_t begin = 0; begin < rows * cols; begin += together) {
    std::vector<size_t> positions(static_cast<size_t>(together));
    std::iota(positions.begin(), positions.end(), static_cast<size_t>(begin));
    mark_plainly(scores, positions, pattern.is_n_of_m() ? pattern.group - pattern.kept : gone, units);
  }
  std::vector<uint8_t> gone_weights;
  for (int64_t r = 0; r < values.rows(); ++r)
    for (int64_t c = 0; c < values.cols(); ++c) gone_weights.push_back(units[static_cast<size_t>(r / pattern.block_rows * cols + c / pattern.block_cols)]);
  return gone_weights;
}

}  // namespace

TEST_CASE("a mask is that of the plain rule, for every pattern and scope", "[mask]") {
  for (const char* text : {"unstructured", "2:4", "1:3", "5:12", "block:1x4", "block:3x1", "block:3x4", "block:33x36"})
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{33, 36}, {66, 72}, {33, 252}})
      for (RankScope scope : {RankScope::tensor, RankScope::row})
        for (double share : {0.0, 0.3, 0.5, 1.0}) {
          const SparsityPattern pattern = parse_sparsity_pattern(text, "t");
          INFO(text << " " << rows << " x " << cols << ", " << to_string(scope) << ", " << share);
          const Matrix values = values_with_ties(rows, cols);
          const int64_t gone = share_of(share, ranked_units(pattern, scope, rows, cols));
          const Mask mask = choose_mask(values.view(), pattern, scope, gone);
          REQUIRE(mask.gone == plain_mask(values, pattern, scope, gone));
          REQUIRE(mask.zeros() == planned_zeros(pattern, scope, share, rows, cols));
        }
}

TEST_CASE("N:M keeps the N largest of every M, the later ones of equals", "[mask]") {
  Matrix row = one_row({1, -4, 3, 2, 0, 0, 0, -1, 5, 5, 5, 5});
  const Mask mask = choose_mask(row.view(), {.kept = 2, .group = 4}, RankScope::row, 0);
  CHECK(mask.zeros() == 6);
  CHECK(apply(mask, row.view()) == 4);  // two were 0 already
  CHECK(std::ranges::equal(row.values(), one_row({0, -4, 3, 0, 0, 0, 0, -1, 0, 0, 5, 5}).values()));
  CHECK(find_zeros(row.view()).zeros() == 7);
}

TEST_CASE("the global ranking equals ranking everything together", "[mask]") {
  for (const char* text : {"unstructured", "block:3x5"}) {
    const SparsityPattern pattern = parse_sparsity_pattern(text, "t");
    const Matrix all = values_with_ties(45, 55);
    for (double share : {0.001, 0.1, 0.5, 0.9, 1.0}) {
      const int64_t gone = share_of(share, ranked_units(pattern, RankScope::tensor, 45, 55));
      GlobalRanking ranking(pattern, gone);
      for (int pass = 0; pass < 2; ++pass) {
        for (int64_t first : {0, 15, 30}) ranking.count(all.view().row_range(first, 15));
        ranking.refine();
      }
      std::vector<uint8_t> marks;
      for (int64_t first : {0, 15, 30}) {
        const Mask mask = ranking.choose(all.view().row_range(first, 15));
        marks.insert(marks.end(), mask.gone.begin(), mask.gone.end());
      }
      CHECK(marks == plain_mask(all, pattern, RankScope::tensor, gone));
    }
  }
}

TEST_CASE("patterns are read back from their names, and others refused", "[mask]") {
  for (const char* text : {"unstructured", "2:4", "1:64", "63:64", "block:4x8", "block:1x64", "block:64x1"}) CHECK(to_string(parse_sparsity_pattern(text, "t")) == text);
  for (const char* text : {"", "2", "2:", ":4", "4:4", "0:4", "-1:4", "2:65", "2:4 ", "2:4:8", "block", "block:", "block:1x1", "block:0x4", "block:4x65", "block:4", "block:4x4x4", "block:4:4", "99999999999999999999:4"})
    CHECK_THROWS_WITH(parse_sparsity_pattern(text, "here"), Contains("here: pattern '" + std::string(text) + "'"));
  CHECK(reason_against({.kept = 2, .group = 4}, 3, 8).empty());
  CHECK_THAT(reason_against({.kept = 2, .group = 4}, 3, 9), Contains("rows of 9 are not a multiple of 4"));
  CHECK_THAT(reason_against({.block_rows = 4, .block_cols = 8}, 3, 8), Contains("3 rows of 8 do not divide into blocks of 4 x 8"));
}
