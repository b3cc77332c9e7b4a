#include "model/quantized_linear.h"

#include <algorithm>
#include <cassert>
#include <vector>

#include "formats/codec.h"
#include "model/integer_kernels.h"
#include "model/integer_matrix.h"

namespace llmc {
namespace {

/// What a group of columns (all of them, unless the scheme has groups) brings to every output.
struct ColumnGroup {
  std::unique_ptr<IntegerMatrix> codes;
  std::vector<int32_t> sums;   ///< Σ q_w [out]
  std::vector<int32_t> zeros;  ///< z_w [out], or empty: all 0
  std::vector<float> scales;   ///< s_w [out]
};

class IntegerLinear final : public PackedMatrix {
 public:
  IntegerLinear(const QuantizedMatrix& weight, std::span<const float> bias, const InputQuantization& input, MatmulBackend backend)
      : out_(weight.rows), width_(weight.span()), bias_(bias.begin(), bias.end()), input_(input) {
    assert(width_ <= most_integer_columns);
    for (int64_t first = 0; first < weight.cols; first += width_) groups_.push_back(make_group(weight, first, backend));
  }

  void apply(ConstMatrixView x, MatrixView y) const override {
    assert(x.rows <= tile_rows && x.cols == width_ * static_cast<int64_t>(groups_.size()));
    const auto width = static_cast<size_t>(width_), out = static_cast<size_t>(out_);
    // Codes of a group lie together, [groups][tile_rows][width], so that each product reads a dense matrix.
    const std::span<uint8_t> codes = thread_scratch<uint8_t, 0>(static_cast<size_t>(tile_rows * x.cols));
    const std::span<uint8_t> row_codes = thread_scratch<uint8_t, 1>(static_cast<size_t>(x.cols));
    const std::span<int32_t> sums = thread_scratch<int32_t>(static_cast<size_t>(tile_rows) * out);
    InputGrid grids[tile_rows];
    for (int64_t r = 0; r < x.rows; ++r) {
      grids[r] = encode_input(input_, x.row_span(r), row_codes);
      for (size_t g = 0; g < groups_.size(); ++g) std::ranges::copy(row_codes.subspan(g * width, width), at(codes, g, r).begin());
      if (bias_.empty()) std::ranges::fill(y.row_span(r), 0.0f);
      else std::ranges::copy(bias_, y.row(r));
    }
    for (size_t g = 0; g < groups_.size(); ++g) {
      const ColumnGroup& group = groups_[g];
      group.codes->multiply(at(codes, g, 0).data(), x.rows, sums.data());
      for (int64_t r = 0; r < x.rows; ++r) {
        const int64_t input_sum = group.zeros.empty() ? 0 : sum_codes(at(codes, g, r)) - width_ * (code_offset + grids[r].zero_point);
        add_scaled_sums({.sums = sums.subspan(static_cast<size_t>(r) * out, out), .weight_sums = group.sums, .weight_zeros = group.zeros, .weight_scales = group.scales, .grid = grids[r], .input_sum = static_cast<int32_t>(input_sum)}, y.row_span(r));
      }
    }
  }

 private:
  std::span<uint8_t> at(std::span<uint8_t> codes, size_t group, int64_t row) const {
    const auto width = static_cast<size_t>(width_);
    return codes.subspan((group * static_cast<size_t>(tile_rows) + static_cast<size_t>(row)) * width, width);
  }

  ColumnGroup make_group(const QuantizedMatrix& weight, int64_t first, MatmulBackend backend) const {
    ColumnGroup group;
    const CodesView view{.data = weight.codes.data() + first, .out = weight.rows, .in = width_, .stride = weight.cols};
    group.codes = pack_codes(view, backend);
    for (int64_t r = 0; r < weight.rows; ++r) {
      const int64_t index = weight.scale_index(r, first);
      const std::span<const int8_t> row(view.data + r * view.stride, static_cast<size_t>(width_));
      int32_t sum = 0;
      for (int8_t code : row) sum += code;
      group.sums.push_back(sum);
      group.scales.push_back(weight.scales[static_cast<size_t>(index)]);
      if (!weight.zero_points.empty()) group.zeros.push_back(weight.zero_code(index));
    }
    return group;
  }

  int64_t out_;
  int64_t width_;  ///< columns of a group
  std::vector<float> bias_;
  InputQuantization input_;
  std::vector<ColumnGroup> groups_;
};

class SimulatedLinear final : public PackedMatrix {
 public:
  SimulatedLinear(std::unique_ptr<PackedMatrix> floats, const InputQuantization& input) : floats_(std::move(floats)), input_(input) {}

  void apply(ConstMatrixView x, MatrixView y) const override {
    const MatrixView rounded{thread_scratch<float, 3>(static_cast<size_t>(x.rows * x.cols)).data(), x.rows, x.cols, x.cols};
    for (int64_t r = 0; r < x.rows; ++r) round_input(input_, x.row_span(r), rounded.row_span(r));
    floats_->apply(rounded, y);
  }

 private:
  std::unique_ptr<PackedMatrix> floats_;
  InputQuantization input_;
};

}  // namespace

std::string_view to_string(Execution execution) {
  switch (execution) {
    case Execution::floats: return "float";
    case Execution::integers: return "int8";
    case Execution::simulated: return "simulated";
  }
  return "?";
}

Execution find_execution(const StoredTensor& weight) {
  const Scheme* scheme = find_scheme(weight);
  if (!scheme || !scheme->input) return Execution::floats;
  const int64_t span = scheme->granularity == Granularity::group ? scheme->group_size : weight.cols();
  return span <= most_integer_columns && !scheme->input->is_float ? Execution::integers : Execution::simulated;
}

Execution find_execution(const Model& model) {
  Execution found = Execution::floats;
  for (const PlacedTensor& placed : model.tensors())
    if (const Execution one = find_execution(*placed.tensor); one != Execution::floats && found != Execution::simulated) found = one;
  return found;
}

std::unique_ptr<PackedMatrix> make_integer_linear(const QuantizedMatrix& weight, std::span<const float> bias, const InputQuantization& input, MatmulBackend backend) {
  return std::make_unique<IntegerLinear>(weight, bias, input, backend);
}

std::unique_ptr<PackedMatrix> make_simulated_linear(std::unique_ptr<PackedMatrix> floats, const InputQuantization& input) {
  return std::make_unique<SimulatedLinear>(std::move(floats), input);
}

}  // namespace llmc
