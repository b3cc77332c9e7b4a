#include "verify/tensor_errors.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"

namespace llmc {
namespace {

struct Bounds {
  float low = 0;
  float high = 0;
};

/// The values that a span's grid rounds without clipping: its own, and half the last step beyond them.
Bounds find_bounds(const QuantizedMatrix& codes, int64_t scale_index) {
  const float scale = codes.scale(scale_index);
  if (codes.scheme.grid == GridKind::integer) {
    const int zero = codes.zero_code(scale_index);
    const auto [low, high] = std::minmax({(static_cast<float>(codes.scheme.lowest_code() - zero) - 0.5f) * scale, (static_cast<float>(codes.scheme.highest_code() - zero) + 0.5f) * scale});
    return {low, high};
  }
  const auto levels = codes.levels(scale_index);
  const size_t last = levels.size() - 1;
  return {(levels[0] - (levels[1] - levels[0]) / 2) * scale, (levels[last] + (levels[last] - levels[last - 1]) / 2) * scale};
}

}  // namespace

GridFit measure_grid_fit(ConstMatrixView original, const QuantizedMatrix& codes) {
  GridFit fit{.scale_min = NAN, .scale_max = NAN};
  for (size_t i = 0; i < codes.scales.size(); ++i) {
    const double scale = std::abs(codes.scale(static_cast<int64_t>(i)));
    fit.scale_min = std::fmin(fit.scale_min, scale);
    fit.scale_max = std::fmax(fit.scale_max, scale);
  }
  size_t outlier = 0;
  for (int64_t r = 0; r < codes.rows; ++r)
    for (int64_t start = 0; start < codes.cols; start += codes.span()) {
      const auto [low, high] = find_bounds(codes, codes.scale_index(r, start));
      for (int64_t c = start; c < start + codes.span(); ++c) {
        float x = original.row(r)[c];
        if (outlier < codes.outliers.positions.size() && codes.outliers.positions[outlier] == r * codes.cols + c) x -= codes.outliers.values[outlier++];
        fit.clipped += x < low || x > high;
      }
    }
  return fit;
}

std::vector<TensorError> measure_tensor_errors(const Model& original, const Model& compressed, const Origin& origin, const RunContext& context) {
  std::vector<TensorError> errors(compressed.tensors().size());
  Stage stage(context, "compare weights", static_cast<int64_t>(errors.size()));
  parallel_for(static_cast<int64_t>(errors.size()), [&](int64_t i) {
    const PlacedTensor& placed = compressed.tensors()[static_cast<size_t>(i)];
    const StoredTensor* source = original.find(placed.row->role, source_block(origin, placed.block), placed.part);
    const Matrix before = source ? read_matrix(*source) : Matrix();
    TensorError& error = errors[static_cast<size_t>(i)];
    Matrix after;
    if (find_scheme(*placed.tensor)) {
      const QuantizedMatrix codes = read_codes(*placed.tensor);
      if (placed.tensor->rows() == before.rows() && placed.tensor->cols() == before.cols()) error.grid = measure_grid_fit(before.view(), codes);
      after = dequantize(codes);
    } else {
      after = read_matrix(*placed.tensor);
    }
    for (const Model* model : {&original, &compressed}) model->checkpoint().release_pages_after(*placed.tensor);
    error.name = placed.tensor->name;
    error.count = placed.tensor->count();
    if (after.rows() != before.rows() || after.cols() != before.cols()) {
      error.zeros = std::ranges::count(after.values(), 0.0f);
      error.sqnr_db = error.max_error = std::numeric_limits<double>::quiet_NaN();
      stage.advance();
      return;
    }
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
