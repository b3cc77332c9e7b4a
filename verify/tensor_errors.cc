#include "verify/tensor_errors.h"

#include <cmath>
#include <limits>

#include "core/parallel.h"

namespace llmc {

std::vector<TensorError> measure_tensor_errors(const Model& original, const Model& compressed, const RunContext& context) {
  std::vector<TensorError> errors(compressed.tensors().size());
  Stage stage(context, "compare weights", static_cast<int64_t>(errors.size()));
  parallel_for(static_cast<int64_t>(errors.size()), [&](int64_t i) {
    const PlacedTensor& placed = compressed.tensors()[static_cast<size_t>(i)];
    const Matrix before = read_matrix(original.get(placed.row->role, placed.block, placed.part));
    const Matrix after = read_matrix(*placed.tensor);
    TensorError& error = errors[static_cast<size_t>(i)];
    error.name = placed.tensor->name;
    error.count = placed.tensor->count();
    double signal = 0, noise = 0;
    for (size_t k = 0; k < before.values().size(); ++k) {
      const double x = before.values()[k], y = after.values()[k];
      signal += x * x;
      noise += (x - y) * (x - y);
      error.max_error = std::max(error.max_error, std::abs(x - y));
      error.zeros += y == 0;
    }
    error.sqnr_db = noise == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(signal / noise);
    stage.advance();
  });
  return errors;
}

}  // namespace llmc
