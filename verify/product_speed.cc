#include "verify/product_speed.h"

#include <time.h>

#include <algorithm>
#include <array>

#include "core/parallel.h"
#include "core/random.h"

namespace llmc {
namespace {

/// Processor time of this thread: a busy machine does not stretch it.
double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double time_product(const Linear& linear, ConstMatrixView x, MatrixView y) {
  const double start = thread_seconds();
  linear.apply(x, y);
  return thread_seconds() - start;
}

ProductSpeed measure_product(const StoredTensor& weight, const Linear& sparse, const ForwardOptions& options) {
  const Linear dense(weight, nullptr, options.precision, options.backend, Zeros::multiplied);
  const Matrix values = read_matrix(weight);
  Matrix x(measured_tokens, sparse.in()), y(measured_tokens, sparse.out());
  Random random(0, "product speed");
  for (float& value : x.values()) value = static_cast<float>(random.normal());
  std::array<double, 3> dense_times, sparse_times;
  time_product(dense, x.view(), y.view()), time_product(sparse, x.view(), y.view());  // the first run of each fills caches
  for (size_t i = 0; i < dense_times.size(); ++i) dense_times[i] = time_product(dense, x.view(), y.view()), sparse_times[i] = time_product(sparse, x.view(), y.view());
  std::ranges::sort(dense_times), std::ranges::sort(sparse_times);
  return {.tensor = weight.name, .zeros = static_cast<double>(std::ranges::count(values.values(), 0.0f)) / static_cast<double>(weight.count()), .dense_seconds = dense_times[dense_times.size() / 2], .sparse_seconds = sparse_times[sparse_times.size() / 2]};
}

double sum(const std::vector<ProductSpeed>& speeds, double ProductSpeed::*seconds) {
  double total = 0;
  for (const ProductSpeed& speed : speeds) total += speed.*seconds;
  return total;
}

}  // namespace

double ProductSpeeds::dense_seconds() const { return sum(skipped, &ProductSpeed::dense_seconds); }
double ProductSpeeds::sparse_seconds() const { return sum(skipped, &ProductSpeed::sparse_seconds); }

ProductSpeeds measure_products(const Model& model, const ForwardOptions& options, const RunContext& context) {
  ProductSpeeds speeds;
  with_threads(1, [&] {
    for (const PlacedTensor& placed : model.tensors()) {
      if (!is_block_linear(placed)) continue;
      context.check_stop();
      ++speeds.weights;
      const Linear linear(*placed.tensor, nullptr, options.precision, options.backend, options.zeros);
      if (linear.is_sparse()) speeds.skipped.push_back(measure_product(*placed.tensor, linear, options));
    }
  });
  return speeds;
}

}  // namespace llmc
