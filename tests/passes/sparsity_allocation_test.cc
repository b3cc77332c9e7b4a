#include "passes/sparsity_allocation.h"

#include <algorithm>

#include "core/error.h"
#include "tests/catch.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

double mean_sparsity(const std::vector<LayerScan>& layers, const std::vector<double>& sparsities) {
  double zeros = 0, weights = 0;
  for (size_t i = 0; i < layers.size(); ++i) zeros += sparsities[i] * static_cast<double>(layers[i].weights), weights += static_cast<double>(layers[i].weights);
  return zeros / weights;
}

}  // namespace

TEST_CASE("more outliers, fewer zeros; the sum is kept", "[allocation]") {
  const std::vector<LayerScan> layers = {{.weights = 100, .outlier_share = 0.01}, {.weights = 300, .outlier_share = 0.05}, {.weights = 100, .outlier_share = 0.03}};
  for (double sparsity : {0.1, 0.5, 0.7, 0.95}) {
    const auto result = allocate_by_outliers(layers, sparsity);
    CHECK(mean_sparsity(layers, result) == Approx(sparsity));
    CHECK(result[0] > result[2]);
    CHECK(result[2] > result[1]);
    for (double s : result) CHECK((s >= 0 && s <= 1));
    CHECK(result[0] - result[1] == Approx(std::min({0.16, sparsity, 1 - sparsity})));
  }
  const std::vector<LayerScan> same(3, {.weights = 10, .outlier_share = 0.02});
  CHECK(allocate_by_outliers(same, 0.4) == std::vector<double>(3, 0.4));
}

TEST_CASE("zeros go where the parabolas say that they cost least; the sum is kept", "[allocation]") {
  // cost = slope · x + bend · x² / 2 around the mean: the least of the sum has slope + bend · x alike for every weight
  const auto cost = [](int64_t weights, double slope, double bend) {
    const double step = allocation_step(0.5), half = bend * step * step / 2;
    return BlockCost{weights, 1 - slope * step + half, 1, 1 + slope * step + half};
  };
  const std::vector<BlockCost> alike = {cost(100, 0.8, 14), cost(100, 0.2, 10), cost(100, 0.3, 12)};
  const auto result = allocate_by_cost(alike, 0.5);
  CHECK(result[0] + result[1] + result[2] == Approx(1.5).epsilon(1e-12));
  CHECK(0.8 + 14 * (result[0] - 0.5) == Approx(0.2 + 10 * (result[1] - 0.5)));
  CHECK(0.8 + 14 * (result[0] - 0.5) == Approx(0.3 + 12 * (result[2] - 0.5)));
  // Twice the weights for the same loss: twice the price is paid.
  const auto sized = allocate_by_cost(std::vector{cost(200, 0.5, 10), cost(100, 0.5, 10)}, 0.5);
  CHECK(200 * sized[0] + 100 * sized[1] == Approx(150).epsilon(1e-12));
  CHECK(0.5 + 10 * (sized[0] - 0.5) == Approx(2 * (0.5 + 10 * (sized[1] - 0.5))));
  // Never farther than 0.08, though a parabola is bent the other way; nor beyond 0 and 1.
  for (double sparsity : {0.02, 0.5, 0.97}) {
    const auto far = allocate_by_cost(std::vector{BlockCost{10, 0.1, 1, 1.1}, BlockCost{10, 0.9, 1, 1.1}}, sparsity);
    CHECK(far[0] + far[1] == Approx(2 * sparsity).epsilon(1e-12));
    for (double s : far) CHECK((s >= 0 && s <= 1 && std::abs(s - sparsity) <= 0.08 + 1e-12));
    CHECK(far[0] < far[1]);
  }
  CHECK(allocate_by_cost(std::vector(4, BlockCost{10, 0.5, 0.5, 0.5}), 0.5) == std::vector(4, 0.5));
}

TEST_CASE("an allocation that is not known is refused", "[allocation]") {
  CHECK_THROWS_WITH(parse_allocation("best", "here"), Contains("here: allocation 'best' is not known; expected uniform, owl or measured"));
}
