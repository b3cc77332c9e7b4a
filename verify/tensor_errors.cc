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
    const StoredTensor* source = original.find(placed.row->role, source_block(origin, placed.block), placed.part, placed.expert);
    const bool same_shape = source && source->rows() == placed.tensor->rows() && source->cols() == placed.tensor->cols();
    TensorError& error = errors[static_cast<size_t>(i)];
    error.name = placed.tensor->name;
    error.count = placed.tensor->count();
    Matrix decoded;  // of codes; floats are read row by row
    if (find_scheme(*placed.tensor)) {
      const QuantizedMatrix codes = read_codes(*placed.tensor);
      if (same_shape) error.grid = measure_grid_fit(read_matrix(*source).view(), codes);
      decoded = dequantize(codes);
    }
    const TensorRows before = same_shape ? TensorRows(*source) : TensorRows(), after = decoded.empty() ? TensorRows(*placed.tensor) : TensorRows();
    std::vector<float> before_row(static_cast<size_t>(before.cols())), after_row(static_cast<size_t>(placed.tensor->cols()));
    double signal = 0, noise = 0;
    for (int64_t r = 0; r < placed.tensor->rows(); ++r) {
      if (decoded.empty()) after.read(r, after_row);
      else std::ranges::copy(decoded.view().row_span(r), after_row.begin());
      error.zeros += std::ranges::count(after_row, 0.0f);
      if (!same_shape) continue;
      before.read(r, before_row);
      for (size_t c = 0; c < after_row.size(); ++c) {
        const double x = before_row[c], y = after_row[c];
        signal += x * x;
        noise += (x - y) * (x - y);
        error.max_error = std::max(error.max_error, std::abs(x - y));
      }
    }
    if (!same_shape) error.sqnr_db = error.max_error = std::numeric_limits<double>::quiet_NaN();
    else error.sqnr_db = noise == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(signal / noise);
    for (const Model* model : {&original, &compressed}) model->checkpoint().release_pages_after(*placed.tensor);
    stage.advance();
  });
  return errors;
}

}  // namespace llmc
