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

TEST_CASE("an allocation that is not known is refused", "[allocation]") {
  CHECK_THROWS_WITH(parse_allocation("best", "here"), Contains("here: allocation 'best' is not known; expected uniform or owl"));
}
