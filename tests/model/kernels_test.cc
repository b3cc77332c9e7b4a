#include "model/kernels.h"

#include <hwy/targets.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/random.h"
#include "tests/catch.h"
#include "tests/support.h"
#include "tests/vector_targets.h"

using namespace llmc;
using test::random_values;

namespace {

constexpr size_t sizes[] = {1, 2, 15, 16, 17, 31, 33, 64, 255, 1023, 2100};
constexpr double epsilon = 0x1p-24;  // half a unit in the last place of 1

/// Largest |a − b| over relative · |b| + absolute; at most 1 when they agree.
double disagreement(std::span<const float> a, std::span<const float> b, double relative, double absolute) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(double{a[i]} - b[i]) / (relative * std::abs(double{b[i]}) + absolute));
  return worst;
}

}  // namespace

TEST_CASE("Norms agree with their references") {
  test::for_each_target([] {
    for (size_t size : sizes)
      for (double norm_epsilon : {1e-6, 1e-3}) {
        CAPTURE(size, norm_epsilon);
        const std::vector<float> x = random_values(size, 3, "x");
        const std::vector<float> weight = random_values(size, 1, "weight");
        const std::vector<float> bias = random_values(size, 1, "bias");
        std::vector<float> fast(size), expected(size);
        rms_norm(x, weight, norm_epsilon, fast);
        rms_norm_reference(x, weight, norm_epsilon, expected);
        CHECK(disagreement(fast, expected, 4 * epsilon, 1e-37) <= 1);  // scale, two products, the reference's own rounding
        // x − mean may cancel: an error of the mean's last place, scaled; |x| is at most 15 here, 1/√(variance + ε) at most 1000.
        const double absolute = size == 1 ? 15 * epsilon * 1000 * 3 : 15 * epsilon * 10;
        for (const std::vector<float>& used : {bias, std::vector<float>()}) {
          layer_norm(x, weight, used, norm_epsilon, fast);
          layer_norm_reference(x, weight, used, norm_epsilon, expected);
          CHECK(disagreement(fast, expected, 6 * epsilon, absolute) <= 1);
        }
        std::vector<float> in_place = x;
        rms_norm(in_place, weight, norm_epsilon, in_place);
        rms_norm(x, weight, norm_epsilon, fast);
        CHECK(in_place == fast);
      }
  });
}

TEST_CASE("Norms keep their precision over a large common offset") {
  test::for_each_target([] {
    std::vector<float> x = random_values(4096, 1, "x");
    for (float& value : x) value += 1000;
    const std::vector<float> ones(x.size(), 1.0f);
    std::vector<float> fast(x.size()), expected(x.size());
    layer_norm(x, ones, {}, 1e-5, fast);
    layer_norm_reference(x, ones, {}, 1e-5, expected);
    CHECK(disagreement(fast, expected, 0, 1000 * epsilon * 2) <= 1);  // the mean rounded to f32, nothing more
  });
}

TEST_CASE("Rotary embedding agrees with its reference") {
  test::for_each_target([] {
    for (size_t half : {size_t{1}, size_t{4}, size_t{16}, size_t{31}, size_t{33}, size_t{64}})
      for (size_t heads : {size_t{1}, size_t{3}}) {
        const size_t head_dim = 2 * half + (heads == 3 ? half : 0);  // all of a head, or its first part
        CAPTURE(half, heads);
        std::vector<float> cosines(half), sines(half);
        for (size_t i = 0; i < half; ++i) {
          cosines[i] = std::cos(static_cast<float>(i) + 0.3f);
          sines[i] = std::sin(static_cast<float>(i) + 0.3f);
        }
        std::vector<float> fast = random_values(head_dim * heads, 1, "heads");
        std::vector<float> expected = fast;
        rotate_heads(fast, head_dim, cosines, sines);
        rotate_heads_reference(expected, head_dim, cosines, sines);
        CHECK(disagreement(fast, expected, 0, 5 * 4 * epsilon) <= 1);  // values below 5; two products, a sum, a rounding
      }
  });
}

TEST_CASE("Softmax and log-sum-exp agree with their references") {
  test::for_each_target([] {
    for (size_t size : sizes)
      for (double deviation : {0.1, 3.0, 40.0}) {
        CAPTURE(size, deviation);
        const std::vector<float> x = random_values(size, deviation, "x");
        std::vector<float> fast = x, expected = x;
        softmax(fast);
        softmax_reference(expected);
        // The difference to the largest value is rounded to f32: up to 300 here; then exp, and a sum of `size`/16 terms.
        const double relative = epsilon * (deviation * 8 + 4 + static_cast<double>(size) / 8);
        CHECK(disagreement(fast, expected, relative, 1e-37) <= 1);
        // exp is off by 2⁻²³ of itself, and by |x − max| · 2⁻²⁴ from its argument: 3 or less for the terms that count.
        CHECK(std::abs(log_sum_exp(x) - log_sum_exp_reference(x)) <= 3e-7);
      }
  });
}

TEST_CASE("Log-sum-exp keeps its precision over a large vocabulary") {
  test::for_each_target([] {
    const std::vector<float> x = random_values(151936, 2, "x");
    CHECK(std::abs(log_sum_exp(x) - log_sum_exp_reference(x)) <= 3e-7);  // as above: pieces add up in f64
  });
}

TEST_CASE("The largest value is the first among equals") {
  test::for_each_target([] {
    for (size_t size : sizes)
      for (size_t at : {size_t{0}, size / 2, size - 1}) {
        CAPTURE(size, at);
        std::vector<float> x = random_values(size, 1, "x");
        x[at] = 100;
        CHECK(find_largest(x) == at);
        x[size - 1] = 100;
        CHECK(find_largest(x) == at);
      }
    CHECK(find_largest(std::vector<float>(40, std::numeric_limits<float>::quiet_NaN())) == 0);
    CHECK(find_largest(std::vector<float>(40, -std::numeric_limits<float>::infinity())) == 0);
  });
}

TEST_CASE("The sum of a divergence agrees with its reference") {
  test::for_each_target([] {
    for (size_t size : sizes)
      for (double deviation : {0.1, 3.0, 40.0})
        for (double difference : {1e-3, 1.0}) {
          CAPTURE(size, deviation, difference);
          const std::vector<float> x = random_values(size, deviation, "x");
          std::vector<float> other = random_values(size, difference, "difference");
          for (size_t i = 0; i < size; ++i) other[i] += x[i];
          const double log_sum = log_sum_exp_reference(x), other_log_sum = log_sum_exp_reference(other);
          const double expected = sum_divergence_reference(x, log_sum, other, other_log_sum);
          // Terms of a few times `difference` whose weights add up to 1, each with a few roundings in f64.
          CHECK(std::abs(sum_divergence(x, log_sum, other, other_log_sum) - expected) <= 1e-14 * (1 + 8 * difference + deviation));
        }
    std::vector<float> x(40, 1.0f);
    x[17] = std::numeric_limits<float>::quiet_NaN();
    CHECK(std::isnan(sum_divergence(x, 1, std::vector<float>(40, 1.0f), 1)));
    CHECK(std::isnan(sum_divergence(std::vector<float>(40, 1.0f), 1, x, 1)));
  });
}

TEST_CASE("Activations agree with their references") {
  test::for_each_target([] {
    for (Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu})
      for (size_t size : sizes) {
        CAPTURE(to_string(activation), size);
        std::vector<float> fast = random_values(size, 3, "x");
        std::vector<float> expected = fast;
        activate(activation, fast);
        activate_reference(activation, expected);
        // Where exp(u) is large its argument's rounding shows: |u| · ε of a value below |x|·exp(−|u|), at most 1e-6 in all.
        CHECK(disagreement(fast, expected, 8 * epsilon, 1e-6) <= 1);
      }
    std::vector<float> extremes = {-1e30f, -500, -104, -90, -20, -0.0f, 0.0f, 20, 90, 104, 500, 1e18f};
    for (Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
      CAPTURE(to_string(activation));
      std::vector<float> fast = extremes, expected = extremes;
      activate(activation, fast);
      activate_reference(activation, expected);
      CHECK(disagreement(fast, expected, 4 * epsilon, 1e-6) <= 1);
    }
  });
}

TEST_CASE("Products and sums of rows") {
  test::for_each_target([] {
    for (size_t size : sizes) {
      const std::vector<float> x = random_values(size, 1, "x");
      const std::vector<float> y = random_values(size, 1, "y");
      std::vector<float> product = y, sum = y;
      multiply_by(product, x);
      add_to(sum, x);
      for (size_t i = 0; i < size; ++i) {
        CHECK(product[i] == y[i] * x[i]);
        CHECK(sum[i] == y[i] + x[i]);
      }
    }
  });
}

TEST_CASE("A row by a matrix agrees with its reference") {
  test::for_each_target([] {
    for (int64_t rows : {1, 3, 4, 5, 64, 129})
      for (int64_t cols : {1, 15, 16, 31, 32, 33, 63, 128, 130, 300}) {
        CAPTURE(rows, cols);
        const std::vector<float> x = random_values(static_cast<size_t>(rows), 1, "x");
        std::vector<float> values = random_values(static_cast<size_t>(rows * (cols + 3)), 1, "matrix"), fast(static_cast<size_t>(cols)), expected(fast);
        const ConstMatrixView matrix{values.data(), rows, cols, cols + 3};
        multiply_row(x, matrix, fast);
        multiply_row_reference(x, matrix, expected);
        CHECK(disagreement(fast, expected, 2 * epsilon, static_cast<double>(rows) * 16 * epsilon) <= 1);  // every sum of products of up to 16 rounds once
      }
  });
}

TEST_CASE("Rounding to bf16 is that of core") {
  std::vector<float> x;
  for (uint32_t high = 0; high < 0x10000; high += 7)  // all exponents, both signs, infinities and NaN
    for (uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) x.push_back(std::bit_cast<float>(high << 16 | low));
  std::vector<uint16_t> expected(x.size());
  narrow_to_bf16_reference(x, expected);
  test::for_each_target([&] {
    std::vector<uint16_t> narrow(x.size());
    narrow_to_bf16(x, narrow);
    CHECK(narrow == expected);
    std::vector<float> rounded(x.size());
    round_to_bf16(x, rounded);
    bool is_same = true;
    for (size_t i = 0; i < x.size(); ++i) is_same = is_same && std::bit_cast<uint32_t>(rounded[i]) == uint32_t{expected[i]} << 16;
    CHECK(is_same);
    for (size_t size : sizes) {
      std::vector<uint16_t> part(size);
      narrow_to_bf16(std::span(x).first(size), part);
      CHECK(std::equal(part.begin(), part.end(), expected.begin()));
    }
  });
}

TEST_CASE("NaN in gives NaN out") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  test::for_each_target([&] {
    for (size_t size : sizes)
      for (size_t at : {size_t{0}, size / 2, size - 1}) {
        CAPTURE(size, at);
        std::vector<float> x(size, 1.0f);
        x[at] = nan;
        CHECK(std::isnan(log_sum_exp(x)));
        std::vector<float> row = x;
        softmax(row);
        for (float value : row) CHECK(std::isnan(value));
        for (Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
          row = x;
          activate(activation, row);
          CHECK(std::isnan(row[at]));
        }
        std::vector<float> normed(size);
        rms_norm(x, x, 1e-5, normed);
        CHECK(std::isnan(normed[0]));
      }
  });
}
