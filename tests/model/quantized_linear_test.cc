// Integer products against plain loops, exactly; what Linear makes of them for every scheme; rounding rows to codes.
#include "model/quantized_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "model/integer_kernels.h"
#include "model/integer_matrix.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/linear_layers.h"
#include "tests/support.h"

using namespace llmc;

namespace {

template <typename Code>
std::vector<Code> random_codes(int64_t count, int lowest, int highest, const std::string& name) {
  Random random(3, name);
  std::vector<Code> codes(static_cast<size_t>(count));
  for (Code& code : codes) code = static_cast<Code>(lowest + static_cast<int>(random.below(static_cast<uint64_t>(highest - lowest + 1))));
  return codes;
}

std::vector<int32_t> multiply_plainly(const std::vector<uint8_t>& x, const std::vector<int8_t>& weight, int64_t rows, int64_t out, int64_t in) {
  std::vector<int32_t> sums;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t o = 0; o < out; ++o) {
      int32_t sum = 0;
      for (int64_t i = 0; i < in; ++i) sum += int32_t{x[static_cast<size_t>(r * in + i)]} * weight[static_cast<size_t>(o * in + i)];
      sums.push_back(sum);
    }
  return sums;
}

const std::vector<InputQuantization>& inputs() {
  static const std::vector<InputQuantization> list = [] {
    std::vector<InputQuantization> made;
    for (int bits : {8, 4})
      for (Mapping mapping : {Mapping::symmetric, Mapping::linear}) {
        made.push_back({.scheme = {.bits = bits, .mapping = mapping}, .grid = {}});
        const ActivationScheme fixed{.bits = bits, .mapping = mapping, .range = InputRange::calibrated};
        made.push_back({.scheme = fixed, .grid = make_static_grid(fixed, -2, 2.5f, DType::f32, "input")});
      }
    return made;
  }();
  return list;
}

StoredTensor quantize(const Matrix& values, const std::string& scheme_name, const InputQuantization& input) {
  Scheme scheme = parse_scheme(scheme_name);
  scheme.input = input.scheme;
  StoredTensor tensor{.name = "t.weight", .dtype = DType::f32, .shape = {values.rows(), values.cols()}};
  tensor.form = round_to_nearest(values.view(), scheme, DType::f32, {}, "t");
  if (input.scheme.range == InputRange::calibrated) set_input_grid(tensor, input.grid);
  return tensor;
}

/// y of the documented formula: exact integer sums of each group, then f32 in order.
Matrix apply_plainly(const StoredTensor& weight, std::span<const float> bias, ConstMatrixView x) {
  const QuantizedMatrix& matrix = std::get<QuantizedMatrix>(weight.form);
  const InputQuantization input = *find_input_quantization(weight);
  Matrix y(x.rows, matrix.rows);
  std::vector<uint8_t> codes(static_cast<size_t>(x.cols));
  for (int64_t r = 0; r < x.rows; ++r) {
    const InputGrid grid = encode_input_reference(input, x.row_span(r), codes);
    for (int64_t o = 0; o < matrix.rows; ++o) {
      float sum = bias.empty() ? 0.0f : bias[static_cast<size_t>(o)];
      for (int64_t first = 0; first < matrix.cols; first += matrix.span()) {
        const int64_t index = matrix.scale_index(o, first);
        int64_t exact = 0;
        for (int64_t i = first; i < first + matrix.span(); ++i)
          exact += int64_t{codes[static_cast<size_t>(i)] - code_offset - grid.zero_point} * (matrix.codes[static_cast<size_t>(o * matrix.cols + i)] - matrix.zero_code(index));
        sum += static_cast<float>(exact) * (grid.scale * matrix.scales[static_cast<size_t>(index)]);
      }
      y.row(r)[o] = sum;
    }
  }
  return y;
}

}  // namespace

TEST_CASE("integer products are exact for any shape", "[quantized_linear]") {
  const struct {
    int64_t out, in;
  } shapes[] = {{1, 1}, {3, 48}, {33, 31}, {31, 255}, {255, 33}, {64, 513}, {17, 1025}, {256, 768}};
  for (MatmulBackend backend : test::backends())
    for (const auto [out, in] : shapes) {
      const auto weight = random_codes<int8_t>(out * in, -128, 127, "weight");
      const auto x = random_codes<uint8_t>(PackedMatrix::tile_rows * in, 0, 255, "x");
      const auto expected = multiply_plainly(x, weight, PackedMatrix::tile_rows, out, in);
      const auto packed = pack_codes({.data = weight.data(), .out = out, .in = in, .stride = in}, backend);
      for (int64_t rows : {1, 16, 31, 33, 63, 64}) {
        CAPTURE(to_string(backend), out, in, rows);
        std::vector<int32_t> sums(expected.size());
        packed->multiply(x.data(), rows, sums.data());
        CHECK(std::equal(sums.begin(), sums.begin() + rows * out, expected.begin()));
      }
    }
}

TEST_CASE("integer products of the most extreme codes and longest rows do not overflow", "[quantized_linear]") {
  const std::vector<uint8_t> x(static_cast<size_t>(PackedMatrix::tile_rows * most_integer_columns), 255);
  for (MatmulBackend backend : test::backends())
    for (int8_t code : {int8_t{-128}, int8_t{127}}) {
      const std::vector<int8_t> weight(static_cast<size_t>(2 * most_integer_columns), code);
      std::vector<int32_t> sums(2 * PackedMatrix::tile_rows);
      pack_codes({.data = weight.data(), .out = 2, .in = most_integer_columns, .stride = most_integer_columns}, backend)->multiply(x.data(), PackedMatrix::tile_rows, sums.data());
      CHECK(std::ranges::all_of(sums, [&](int32_t sum) { return sum == 255 * code * most_integer_columns; }));
    }
  CHECK(255 * 255 * most_integer_columns <= INT32_MAX);
  CHECK(255 * 255 * (most_integer_columns + 1) > INT32_MAX);
}

TEST_CASE("rows are rounded to the reference's codes, bit for bit", "[quantized_linear]") {
  for (const InputQuantization& input : inputs())
    for (int64_t count : {1, 15, 16, 31, 33, 255, 1000})
      for (double deviation : {1e-30, 0.02, 1.0, 300.0}) {
        Matrix x = test::random_matrix(1, count, "row", deviation);
        std::vector<uint8_t> codes(static_cast<size_t>(count)), expected(codes.size());
        for (int round = 0; round < 3; ++round) {
          if (round == 1) for (float& v : x.values()) v = std::abs(v);
          if (round == 2) std::ranges::fill(x.values(), 0.0f);
          CAPTURE(to_string(input.scheme), count, deviation, round);
          const InputGrid grid = encode_input(input, x.values(), codes);
          CHECK(grid == encode_input_reference(input, x.values(), expected));
          CHECK(codes == expected);
          std::vector<float> back(codes.size());
          round_input(input, x.values(), back);
          double worst = 0;  // half a step, half a step of the zero point, and what is clipped
          for (size_t i = 0; i < back.size(); ++i) {
            const float inside = std::clamp(x.values()[i], static_cast<float>(input.scheme.lowest_code() - grid.zero_point) * grid.scale, static_cast<float>(input.scheme.highest_code() - grid.zero_point) * grid.scale);
            worst = std::max(worst, std::abs(double{back[i]} - inside) / grid.scale);
          }
          CHECK(worst <= 0.501);
        }
      }
}

TEST_CASE("rows are rounded to E4M3 and back, by a scale of their own or a given one", "[quantized_linear]") {
  InputQuantization input{.scheme = {.is_float = true}, .grid = {}};
  const auto round = [&](std::vector<float> x) {
    round_input(input, x, x);
    return x;
  };
  CHECK(round({448, 17, 19, -0.01f, 0, 1.5f}) == std::vector<float>{448, 16, 20, -0x1.4p-7f, 0, 1.5f});  // 8 steps to each power of two, ties to even; 2⁻⁹ below 2⁻⁶
  CHECK(round({896, 34, -3}) == std::vector<float>{896, 32, -3});
  CHECK(round({0, 0}) == std::vector<float>{0, 0});
  CHECK(std::isnan(round({1, NAN, 2})[0]));
  input.scheme.range = InputRange::calibrated, input.grid.scale = 0.5f;
  CHECK(round({1000, -8.5f, 0.1f}) == std::vector<float>{224, -8, 0.1015625f});
  CHECK(make_static_grid(input.scheme, -2, 7, DType::f32, "x").scale == 7.0f / 448);

  const Matrix weight = test::random_matrix(40, 96, "weight"), x = test::random_matrix(3, 96, "x");
  input = {.scheme = {.is_float = true}, .grid = {}};
  const StoredTensor tensor = quantize(weight, "FP8A16", input);
  CHECK(find_execution(tensor) == Execution::simulated);
  CHECK(to_string(*find_scheme(tensor)) == "FP8A8-channel-dynamic");
  CHECK(parse_scheme("FP8A8-channel-dynamic") == *find_scheme(tensor));
  CHECK_THROWS_AS(parse_scheme("FP8A8-linear"), Error);
  const Scheme mixed = parse_scheme("W4A8-g16-dynamic-float");
  CHECK((mixed.input->is_float && mixed.grid == GridKind::integer && parse_scheme(to_string(mixed)) == mixed));
  Matrix rounded = x, y(3, 40), expected(3, 40);
  for (int64_t r = 0; r < 3; ++r) round_input(input, rounded.view().row_span(r), rounded.view().row_span(r));
  StoredTensor plain = quantize(weight, "FP8A16", input);
  std::get<QuantizedMatrix>(plain.form).scheme.input.reset();
  Linear(tensor, nullptr, Precision::f32, MatmulBackend::eigen).apply(x.view(), y.view());
  Linear(plain, nullptr, Precision::f32, MatmulBackend::eigen).apply(rounded.view(), expected.view());
  CHECK(std::ranges::equal(y.values(), expected.values()));
}

TEST_CASE("a row that is not finite gives NaN and harms no other", "[quantized_linear]") {
  const Matrix weight = test::random_matrix(40, 96, "weight");
  for (const InputQuantization& input : inputs())
    for (MatmulBackend backend : test::backends())
      for (float wrong : {NAN, INFINITY, -INFINITY})
        for (int64_t at : {0, 50, 95}) {
          const Linear linear(quantize(weight, "W8A8", input), nullptr, Precision::f32, backend);
          Matrix x = test::random_matrix(5, 96, "x");
          const Matrix expected = test::apply(linear, x.view());
          x.row(2)[at] = wrong;
          const Matrix y = test::apply(linear, x.view());
          for (int64_t r = 0; r < 5; ++r) {
            if (r == 2) CHECK(std::ranges::all_of(y.view().row_span(r), [](float v) { return std::isnan(v); }));
            else CHECK(test::same_bits(y.view().row_range(r, 1), expected.view().row_range(r, 1)));
          }
        }
}

TEST_CASE("Linear in integers is the documented formula, for every scheme and odd sizes", "[quantized_linear]") {
  for (const char* scheme : {"W8A16", "W8A16-tensor", "W8A16-linear", "W4A16-g32", "W4A16-g32-linear", "W3A16-g96", "W2A16-channel-linear"})
    for (int64_t out : {1, 33})
      for (int64_t in : {96, 288}) {
        const Matrix weight = test::random_matrix(out, in, "weight"), bias = test::random_matrix(1, out, "bias"), x = test::random_matrix(81, in, "x");
        const StoredTensor stored_bias = test::make_tensor("bias", DType::f32, bias);
        for (const InputQuantization& input : inputs()) {
          const StoredTensor stored = quantize(weight, scheme, input);
          CHECK(find_execution(stored) == Execution::integers);
          const Matrix expected = apply_plainly(stored, {}, x.view()), biased = apply_plainly(stored, bias.values(), x.view());
          for (MatmulBackend backend : test::backends()) {
            CAPTURE(scheme, out, in, to_string(input.scheme), to_string(backend));
            CHECK(test::same_bits(test::apply(Linear(stored, nullptr, Precision::f32, backend), x.view()).view(), expected.view()));
            CHECK(test::same_bits(test::apply(Linear(stored, &stored_bias, Precision::bf16, backend), x.view()).view(), biased.view()));  // whatever the precision
          }
        }
      }
}

TEST_CASE("sums are scaled as the reference scales them, bit for bit", "[quantized_linear]") {
  for (int64_t count : {1, 15, 16, 31, 33, 255}) {
    const auto sums = random_codes<int32_t>(count, -1'000'000, 1'000'000, "sums"), weight_sums = random_codes<int32_t>(count, -9000, 9000, "weights"), zeros = random_codes<int32_t>(count, -128, 127, "zeros");
    const Matrix scales = test::random_matrix(1, count, "scales", 0.01);
    Matrix y = test::random_matrix(1, count, "y"), expected = y;
    for (std::span<const int32_t> weight_zeros : {std::span<const int32_t>(), std::span<const int32_t>(zeros)}) {
      const IntegerSums row{.sums = sums, .weight_sums = weight_sums, .weight_zeros = weight_zeros, .weight_scales = scales.values(), .grid = {.scale = 0.03f, .zero_point = -7}, .input_sum = 4321};
      add_scaled_sums(row, y.values());
      add_scaled_sums_reference(row, expected.values());
      CHECK(test::same_bits(y.view(), expected.view()));
    }
  }
}

TEST_CASE("a row of an integer product depends on nothing but itself", "[quantized_linear]") {
  for (MatmulBackend backend : test::backends())
    for (const char* scheme : {"W8A8", "W4A8-g32-linear-dynamic-linear"}) {
      CAPTURE(to_string(backend), scheme);
      const Linear linear(quantize(test::random_matrix(100, 160, "weight"), scheme, {.scheme = *parse_scheme(scheme).input, .grid = {}}), nullptr, Precision::f32, backend);
      const Matrix x = test::random_matrix(200, 160, "x");
      Matrix expected;
      with_threads(1, [&] { expected = test::apply(linear, x.view()); });
      with_threads(4, [&] { CHECK(test::same_bits(test::apply(linear, x.view()).view(), expected.view())); });
      for (int64_t first : {0, 1, 63, 130})
        for (int64_t rows : {1, 17, 64, 65}) CHECK(test::same_bits(test::apply(linear, x.view().row_range(first, rows)).view(), expected.view().row_range(first, rows)));
    }
}

TEST_CASE("rows too long for 32-bit sums are simulated, close to the exact result", "[quantized_linear]") {
  const int64_t in = most_integer_columns + 1;
  const Matrix weight = test::random_matrix(3, in, "weight"), x = test::random_matrix(2, in, "x");
  const StoredTensor stored = quantize(weight, "W8A8", inputs()[0]);
  CHECK(find_execution(stored) == Execution::simulated);
  const Matrix expected = apply_plainly(stored, {}, x.view());
  for (MatmulBackend backend : test::backends()) {
    const Matrix y = test::apply(Linear(stored, nullptr, Precision::f32, backend), x.view());
    for (size_t i = 0; i < y.values().size(); ++i)  // f32 sums of 33026 products near 1: 2^-24 · √33026 · √33026 at most
      CHECK(std::abs(y.values()[i] - expected.values()[i]) <= 2e-3f);
  }
}

TEST_CASE("a static scheme without a grid does not run", "[quantized_linear]") {
  StoredTensor stored = quantize(test::random_matrix(4, 32, "weight"), "W8A8", inputs()[1]);
  stored.input_grid.reset();
  CHECK_THROWS_WITH(Linear(stored, nullptr, Precision::f32, default_backend()), Catch::Matchers::Contains("t.weight: a static scheme rounds its input, but no scale of the input is there"));
}
