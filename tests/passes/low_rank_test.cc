#include "passes/low_rank.h"

#include <cmath>

#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;

namespace {

double frobenius_distance(const Matrix& a, const Matrix& b) {
  double sum = 0;
  for (size_t i = 0; i < a.values().size(); ++i) sum += std::pow(double{a.values()[i]} - b.values()[i], 2);
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("a low-rank matrix starts at zero and finds a matrix of its rank, from the gradient of the distance alone") {
  const Matrix left = test::random_matrix(70, 3, "left"), right = test::random_matrix(3, 41, "right");
  Matrix wanted(70, 41);
  for (int64_t r = 0; r < 70; ++r)
    for (int64_t c = 0; c < 41; ++c)
      for (int64_t k = 0; k < 3; ++k) wanted.row(r)[c] += left.row(r)[k] * right.row(k)[c];

  LowRankMatrix learned(70, 41, 6, Random(1, "test"));
  CHECK(learned.parameters() == 6 * (70 + 41));
  const Matrix zero(70, 41);
  CHECK(frobenius_distance(learned.values(), zero) == 0);
  const double start = frobenius_distance(wanted, zero);
  constexpr int steps = 1500;
  for (int step = 0; step < steps; ++step) {
    Matrix gradient = learned.values();
    for (size_t i = 0; i < gradient.values().size(); ++i) gradient.values()[i] -= wanted.values()[i];
    learned.update(gradient, 0.2f * (1 - static_cast<float>(step) / steps));
  }
  CHECK(frobenius_distance(learned.values(), wanted) < 0.05 * start);  // A turns only slowly: 0 is not reached in so many steps
  CHECK(LowRankMatrix(5, 9, 100, Random(1, "cut")).parameters() == 5 * (5 + 9));
}
