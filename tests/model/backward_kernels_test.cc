#include "model/backward_kernels.h"

#include <cmath>
#include <functional>
#include <hwy/targets.h>
#include <string>
#include <vector>

#include "core/random.h"
#include "model/kernels.h"
#include "tests/catch.h"
#include "tests/support.h"
#include "tests/vector_targets.h"

using namespace llmc;
using test::random_values;

namespace {

using Values = std::vector<float>;
using Doubles = std::vector<double>;

constexpr size_t backward_sizes[] = {1, 2, 15, 16, 31, 33, 64, 255, 1000};
constexpr Activation activations[] = {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu};

double largest_difference(const Values& a, const Values& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(double{a[i]} - b[i]));
  return worst;
}

/// Gradient of Σ d_y · f(x) by central differences in f64.
Doubles central_differences(const Values& x, const Values& d_y, const std::function<Doubles(const Doubles&)>& f) {
  constexpr double step = 1e-5;  // errors of step² · f‴ and 1e-16 / step: both far below f32's
  Doubles at(x.begin(), x.end()), result;
  for (size_t i = 0; i < x.size(); ++i) {
    const auto loss = [&](double value) {
      Doubles moved = at;
      moved[i] = value;
      const Doubles y = f(moved);
      double sum = 0;
      for (size_t k = 0; k < y.size(); ++k) sum += y[k] * d_y[k];
      return sum;
    };
    result.push_back((loss(at[i] + step) - loss(at[i] - step)) / (2 * step));
  }
  return result;
}

/// At most 1e-6 of the largest value apart: what rounding to f32 makes of it, a few times over.
void check_close(const Values& values, const Doubles& expected) {
  double worst = 0, scale = 1e-3;
  for (size_t i = 0; i < values.size(); ++i) {
    worst = std::max(worst, std::abs(values[i] - expected[i]));
    scale = std::max(scale, std::abs(expected[i]));
  }
  CHECK(worst <= 1e-6 * scale);
}

Doubles normalize(const Doubles& x, const Values& weight, const Values& bias, Norm norm, double epsilon) {
  const double count = static_cast<double>(x.size());
  double mean = 0, squares = 0;
  if (norm == Norm::layer)
    for (double v : x) mean += v / count;
  for (double v : x) squares += (v - mean) * (v - mean) / count;
  Doubles y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back((x[i] - mean) / std::sqrt(squares + epsilon) * weight[i] + bias[i]);
  return y;
}

}  // namespace

TEST_CASE("Reference gradients of norms are those of central differences") {
  for (size_t size : {1u, 5u, 16u, 33u})
    for (double epsilon : {1e-5, 1e-2}) {
      CAPTURE(size, epsilon);
      const Values x = random_values(size, 2, "x"), weight = random_values(size, 1, "weight"), bias = random_values(size, 1, "bias"), d_y = random_values(size, 1, "d_y");
      const Values zero(size);
      for (Norm norm : {Norm::rms, Norm::layer}) {
        CAPTURE(to_string(norm));
        Values d_x(size), d_weight(size), d_bias(size);
        if (norm == Norm::rms) rms_norm_backward_reference(x, weight, epsilon, d_y, d_x, d_weight);
        else layer_norm_backward_reference(x, weight, epsilon, d_y, d_x, d_weight, d_bias);
        check_close(d_x, central_differences(x, d_y, [&](const Doubles& at) { return normalize(at, weight, norm == Norm::rms ? zero : bias, norm, epsilon); }));
        const Doubles normed = normalize(Doubles(x.begin(), x.end()), Values(size, 1), zero, norm, epsilon);
        check_close(d_weight, central_differences(weight, d_y, [&](const Doubles& at) {
                      Doubles y;
                      for (size_t i = 0; i < size; ++i) y.push_back(at[i] * normed[i]);
                      return y;
                    }));
        if (norm == Norm::layer) CHECK(d_bias == d_y);
      }
    }
}

TEST_CASE("Reference slopes and softmax gradients are those of central differences") {
  const Values x = random_values(33, 2, "x"), d_y = random_values(33, 1, "d_y");
  for (Activation activation : activations) {
    CAPTURE(to_string(activation));
    Values value(x.size()), slope(x.size()), expected = x;
    activate_with_slope_reference(activation, x, value, slope);
    activate_reference(activation, expected);
    CHECK(largest_difference(value, expected) <= 1e-6);  // the same function, two f64 formulas
    const Doubles differences = central_differences(x, Values(x.size(), 1), [&](const Doubles& at) {
      Doubles y;
      for (double v : at) {
        const double s = activation == Activation::gelu_tanh ? 0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))) : activation == Activation::gelu ? 0.5 * std::erfc(-v / std::sqrt(2.0)) : activation == Activation::silu ? 1 / (1 + std::exp(-v)) : v > 0 ? 1.0 : 0.0;
        y.push_back(v * s);
      }
      return y;
    });
    check_close(slope, differences);
  }
  const float scale = 0.3f;
  const auto soft = [&](const Doubles& at) {
    Doubles y;
    double sum = 0;
    for (double v : at) y.push_back(std::exp(scale * v)), sum += y.back();
    for (double& v : y) v /= sum;
    return y;
  };
  const Doubles p = soft(Doubles(x.begin(), x.end()));
  Values d = d_y;
  softmax_backward_reference(Values(p.begin(), p.end()), scale, d);
  check_close(d, central_differences(x, d_y, soft));
}

TEST_CASE("Backward kernels agree with their references") {
  test::for_each_target([] {
    for (size_t size : backward_sizes) {
      CAPTURE(size);
      const Values x = random_values(size, 3, "x"), weight = random_values(size, 1, "weight"), d_y = random_values(size, 1, "d_y");
      for (Activation activation : activations) {
        CAPTURE(to_string(activation));
        Values value(size), slope(size), expected_value(size), expected_slope(size);
        activate_with_slope(activation, x, value, slope);
        activate_with_slope_reference(activation, x, expected_value, expected_slope);
        CHECK(largest_difference(value, expected_value) <= 4e-6);  // values to 10 with the 1e-7 of exp and erfc
        CHECK(largest_difference(slope, expected_slope) <= 4e-6);
        Values in_place = x;
        activate_with_slope(activation, in_place, value, in_place);
        CHECK(in_place == slope);
      }
      const auto compare = [&](auto norm, auto reference) {
        Values d_x(size), d_weight(size, 1), d_bias(size, 1), expected_x(size), expected_weight(size, 1), expected_bias(size, 1);
        norm(d_x, d_weight, d_bias);
        reference(expected_x, expected_weight, expected_bias);
        CHECK(largest_difference(d_x, expected_x) <= 2e-5);  // sums in f64, but terms to 100 rounded to f32 (one value: scale to 1/√epsilon)
        CHECK(largest_difference(d_weight, expected_weight) <= 4e-6);
        CHECK(largest_difference(d_bias, expected_bias) <= 1e-6);
        Values in_place = d_y, no_weight, no_bias;
        norm(in_place, no_weight, no_bias);
      };
      compare([&](Values& d_x, Values& d_w, Values&) { rms_norm_backward(x, weight, 1e-3, d_y, d_x, d_w); },
              [&](Values& d_x, Values& d_w, Values&) { rms_norm_backward_reference(x, weight, 1e-3, d_y, d_x, d_w); });
      compare([&](Values& d_x, Values& d_w, Values& d_b) { layer_norm_backward(x, weight, 1e-3, d_y, d_x, d_w, d_b); },
              [&](Values& d_x, Values& d_w, Values& d_b) { layer_norm_backward_reference(x, weight, 1e-3, d_y, d_x, d_w, d_b); });
      Values p = x;
      softmax(p);
      Values d = d_y, expected = d_y;
      softmax_backward(p, 0.5f, d);
      softmax_backward_reference(p, 0.5f, expected);
      CHECK(largest_difference(d, expected) <= 2e-6);  // p sums to 1, so the dot product is off by a few 2⁻²⁴ of |d_y|
      Values y = x, expected_y = x;
      add_scaled(y, 0.3f, d_y);
      for (size_t i = 0; i < size; ++i) expected_y[i] += 0.3f * d_y[i];
      CHECK(y == expected_y);
    }
  });
}
