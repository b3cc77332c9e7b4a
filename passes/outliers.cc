#include "passes/outliers.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace llmc {

Outliers take_outliers(Matrix& weights, double share, DType dtype) {
  const auto values = weights.values();
  const auto count = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size()));
  if (count == 0) return {};
  Outliers outliers{.dtype = dtype, .positions = {}, .values = {}};
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::ranges::nth_element(order, order.begin() + count - 1, [&](int64_t a, int64_t b) {
    const float x = std::abs(values[static_cast<size_t>(a)]), y = std::abs(values[static_cast<size_t>(b)]);
    return x != y ? x > y : a < b;
  });
  outliers.positions.assign(order.begin(), order.begin() + count);
  std::ranges::sort(outliers.positions);
  for (int64_t position : outliers.positions) {
    float& weight = values[static_cast<size_t>(position)];
    outliers.values.push_back(round_to(dtype, weight));
    weight -= outliers.values.back();
  }
  return outliers;
}

DType outlier_dtype_for(DType weight) { return weight == DType::f16 ? DType::f16 : DType::bf16; }

double outlier_bits(double share) { return share > 0 ? share * (16 + std::log2(1 / share) + 1.75) : 0; }  // a gap's entropy is log2(1/share) + 1.44; Rice codes lose a little

}  // namespace llmc
