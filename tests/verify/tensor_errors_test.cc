// What compression left of each weight, against loops over the definition; how well weights lie in their grids.
#include "verify/tensor_errors.h"

#include <algorithm>
#include <cmath>

#include "passes/grid.h"
#include "passes/outliers.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/golden.h"
#include "tests/support.h"

using namespace llmc;

namespace {

QuantizedMatrix round(const Matrix& weights, const Scheme& scheme, const RangeOptions& range) { return round_to_nearest(weights.view(), scheme, scale_dtype_for(scheme, DType::bf16), range, "t"); }

/// Weights that are further from the nearest value of their grid than half of the largest step there.
int64_t count_clipped(const Matrix& weights, const QuantizedMatrix& codes) {
  int64_t clipped = 0;
  for (int64_t r = 0; r < weights.rows(); ++r)
    for (int64_t c = 0; c < weights.cols(); ++c) {
      const Grid grid = get_grid(codes, codes.scale_index(r, c));
      const float x = weights.row(r)[c], low = grid.value(grid.lowest), high = grid.value(grid.highest);
      const float past_low = low - (grid.value(grid.lowest + 1) - low) / 2, past_high = high + (high - grid.value(grid.highest - 1)) / 2;
      clipped += x < std::min(past_low, past_high) || x > std::max(past_low, past_high);  // with a negative scale the lowest code is the highest value
    }
  return clipped;
}

}  // namespace

TEST_CASE("Clipped weights and scales are counted on every kind of grid") {
  const Matrix weights = test::random_matrix(7, 96, "weights", 0.02);
  for (const char* name : {"W4A16-g32", "W3A16-g8-linear", "W2A16-channel", "W8A16-tensor-linear", "FP8A16", "MXFP4A16", "NVFP4A16", "NF4-g32", "codebook5-channel", "codebook16"})
    for (RangeRule rule : {RangeRule::minmax, RangeRule::percentile, RangeRule::mse}) {
      CAPTURE(name, to_string(rule));
      const QuantizedMatrix codes = round(weights, parse_scheme(name), {.rule = rule, .percentile = 90});
      const GridFit fit = measure_grid_fit(weights.view(), codes);
      CHECK(std::abs(fit.clipped - count_clipped(weights, codes)) <= 1);  // bounds are rounded to f32 in another order
      if (codes.scheme.grid == GridKind::codebook) {
        CHECK((std::isnan(fit.scale_min) && std::isnan(fit.scale_max)));
        continue;
      }
      // E4M3 scales round down by up to 1/16; an integer zero point moves the range by up to half a step, and its scale by a little more.
      if (rule == RangeRule::minmax && codes.scheme.scale != ScaleKind::e4m3 && codes.scheme.mapping == Mapping::symmetric) CHECK(fit.clipped == 0);
      if (rule == RangeRule::percentile) CHECK(fit.clipped > 0);
      std::vector<float> sizes;
      for (const float scale : codes.scales) sizes.push_back(std::abs(scale));
      CHECK(fit.scale_min * codes.global_scale == std::ranges::min(sizes));
      CHECK(fit.scale_max * codes.global_scale == std::ranges::max(sizes));
    }
}

TEST_CASE("Outliers are not clipped") {
  Matrix weights = test::random_matrix(5, 64, "weights");
  weights.row(2)[7] = 1000;
  weights.row(4)[63] = -1000;
  Matrix rest = weights;
  Outliers outliers = take_outliers(rest, 2.5 / 320, DType::bf16);
  REQUIRE(outliers.positions.size() == 2);
  QuantizedMatrix codes = round(rest, parse_scheme("W4A16-g32"), {});
  CHECK(measure_grid_fit(weights.view(), codes).clipped == 2);
  codes.outliers = outliers;
  CHECK(measure_grid_fit(weights.view(), codes).clipped == 0);
}

TEST_CASE("Errors of tensors are those of their values, and grids are measured where there are codes") {
  const Model original = load_model(golden_root() / "gpt2-tied", {}, test::context());
  const Model compressed = load_model(golden_root() / "gpt2-tied", {}, test::context());
  for (const PlacedTensor& placed : compressed.tensors())
    if (is_block_linear(placed) && placed.block > 0) placed.tensor->form = round(read_matrix(*placed.tensor), parse_scheme("W3A16-channel"), {.rule = RangeRule::percentile, .percentile = 95});
  const auto errors = measure_tensor_errors(original, compressed, compressed.origin(), test::context());
  REQUIRE(errors.size() == compressed.tensors().size());
  for (size_t i = 0; i < errors.size(); ++i) {
    const PlacedTensor& placed = compressed.tensors()[i];
    CAPTURE(placed.tensor->name);
    CHECK(errors[i].name == placed.tensor->name);
    const bool is_quantized = is_block_linear(placed) && placed.block > 0;
    REQUIRE(errors[i].grid.has_value() == is_quantized);
    if (!is_quantized) {
      CHECK(std::isinf(errors[i].sqnr_db));
      continue;
    }
    const Matrix before = read_matrix(original.get(placed.row->role, placed.block, placed.part)), after = read_matrix(*placed.tensor);
    double signal = 0, noise = 0;
    for (size_t k = 0; k < before.values().size(); ++k) signal += std::pow(double{before.values()[k]}, 2), noise += std::pow(double{before.values()[k]} - after.values()[k], 2);
    CHECK(errors[i].sqnr_db == Approx(10 * std::log10(signal / noise)));
    CHECK(errors[i].grid->clipped == measure_grid_fit(before.view(), read_codes(*placed.tensor)).clipped);
    CHECK(errors[i].grid->clipped > 0);
  }
}
