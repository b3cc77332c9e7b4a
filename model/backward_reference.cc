#include <cmath>
#include <numbers>

#include "model/backward_kernels.h"

namespace llmc {

void activate_with_slope_reference(Activation activation, std::span<const float> x, std::span<float> value, std::span<float> slope) {
  const auto apply = [&](auto share, auto share_slope) {
    for (size_t i = 0; i < x.size(); ++i) {
      const double v = x[i];
      slope[i] = static_cast<float>(share(v) + v * share_slope(v));
      value[i] = static_cast<float>(v * share(v));
    }
  };
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  const double root = std::sqrt(2 / std::numbers::pi);
  const auto twice_u = [&](double v) { return 2 * root * (v + 0.044715 * v * v * v); };
  switch (activation) {
    case Activation::silu: return apply(sigmoid, [&](double v) { return sigmoid(v) * sigmoid(-v); });
    case Activation::gelu:
      return apply([](double v) { return 0.5 * std::erfc(-v / std::numbers::sqrt2); }, [](double v) { return std::exp(-v * v / 2) / std::sqrt(2 * std::numbers::pi); });
    case Activation::gelu_tanh:
      return apply([&](double v) { return sigmoid(twice_u(v)); }, [&](double v) { return sigmoid(twice_u(v)) * sigmoid(-twice_u(v)) * 2 * root * (1 + 3 * 0.044715 * v * v); });
    case Activation::relu: return apply([](double v) { return v > 0 ? 1.0 : 0.0; }, [](double) { return 0.0; });
  }
}

void rms_norm_backward_reference(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<const float> d_y, std::span<float> d_x, std::span<float> d_weight) {
  const double count = static_cast<double>(x.size());
  double squares = 0, along = 0;
  for (size_t i = 0; i < x.size(); ++i) squares += double{x[i]} * x[i], along += double{x[i]} * weight[i] * d_y[i];
  const double scale = 1 / std::sqrt(squares / count + epsilon);
  for (size_t i = 0; i < x.size(); ++i) {
    if (!d_weight.empty()) d_weight[i] += static_cast<float>(d_y[i] * x[i] * scale);
    d_x[i] = static_cast<float>(scale * (double{weight[i]} * d_y[i] - x[i] * scale * scale * along / count));
  }
}

void layer_norm_backward_reference(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<const float> d_y, std::span<float> d_x, std::span<float> d_weight, std::span<float> d_bias) {
  const double count = static_cast<double>(x.size());
  double mean = 0, squares = 0, total = 0, along = 0;
  for (float value : x) mean += value / count;
  for (size_t i = 0; i < x.size(); ++i) {
    const double centred = x[i] - mean, g = double{weight[i]} * d_y[i];
    squares += centred * centred, total += g, along += g * centred;
  }
  const double scale = 1 / std::sqrt(squares / count + epsilon);
  for (size_t i = 0; i < x.size(); ++i) {
    const double normed = (x[i] - mean) * scale;
    if (!d_weight.empty()) d_weight[i] += static_cast<float>(d_y[i] * normed);
    if (!d_bias.empty()) d_bias[i] += d_y[i];
    d_x[i] = static_cast<float>(scale * (double{weight[i]} * d_y[i] - total / count - normed * along * scale / count));
  }
}

void softmax_backward_reference(std::span<const float> p, float scale, std::span<float> d_p) {
  double dot = 0;
  for (size_t i = 0; i < p.size(); ++i) dot += double{p[i]} * d_p[i];
  for (size_t i = 0; i < p.size(); ++i) d_p[i] = static_cast<float>(scale * p[i] * (d_p[i] - dot));
}

}  // namespace llmc
