#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/dtype.h"
#include "model/kernels.h"

namespace llmc {

void rms_norm_reference(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<float> out) {
  double squares = 0;
  for (float value : x) squares += double{value} * value;
  const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  for (size_t i = 0; i < x.size(); ++i) out[i] = static_cast<float>(x[i] * scale * weight[i]);
}

void layer_norm_reference(std::span<const float> x, std::span<const float> weight, std::span<const float> bias, double epsilon, std::span<float> out) {
  const double count = static_cast<double>(x.size());
  double sum = 0;
  for (float value : x) sum += value;
  const double mean = sum / count;
  double squares = 0;
  for (float value : x) squares += (value - mean) * (value - mean);
  const double scale = 1 / std::sqrt(squares / count + epsilon);
  for (size_t i = 0; i < x.size(); ++i) out[i] = static_cast<float>((x[i] - mean) * scale * weight[i] + (bias.empty() ? 0.0 : bias[i]));
}

void rotate_heads_reference(std::span<float> heads, size_t head_dim, std::span<const float> cosines, std::span<const float> sines) {
  const size_t half = cosines.size();
  for (size_t head = 0; head < heads.size(); head += head_dim)
    for (size_t i = 0; i < half; ++i) {
      const double a = heads[head + i];
      const double b = heads[head + half + i];
      heads[head + i] = static_cast<float>(a * cosines[i] - b * sines[i]);
      heads[head + half + i] = static_cast<float>(b * cosines[i] + a * sines[i]);
    }
}

void softmax_reference(std::span<float> row) {
  const double log_sum = log_sum_exp_reference(row);
  for (float& value : row) value = static_cast<float>(std::exp(value - log_sum));
}

double log_sum_exp_reference(std::span<const float> row) {
  const double largest = *std::ranges::max_element(row);
  double sum = 0;
  for (float value : row) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

double sum_divergence_reference(std::span<const float> logits, double log_sum, std::span<const float> other_logits, double other_log_sum) {
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double log_p = logits[i] - log_sum;
    sum += std::exp(log_p) * (log_p - (other_logits[i] - other_log_sum));
  }
  return sum;
}

void activate_reference(Activation activation, std::span<float> x) {
  const auto apply = [&](auto function) {
    for (float& value : x) value = static_cast<float>(function(double{value}));
  };
  switch (activation) {
    case Activation::silu: return apply([](double v) { return v / (1 + std::exp(-v)); });
    case Activation::gelu: return apply([](double v) { return 0.5 * v * std::erfc(-v / std::numbers::sqrt2); });
    case Activation::gelu_tanh:
      return apply([](double v) { return 0.5 * v * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v * v * v))); });
    case Activation::relu: return apply([](double v) { return v < 0 ? 0.0 : v; });
  }
}

void multiply_row_reference(std::span<const float> x, ConstMatrixView matrix, std::span<float> out) {
  for (int64_t c = 0; c < matrix.cols; ++c) {
    double sum = 0;
    for (int64_t r = 0; r < matrix.rows; ++r) sum += double{x[static_cast<size_t>(r)]} * matrix.row(r)[c];
    out[static_cast<size_t>(c)] = static_cast<float>(sum);
  }
}

void narrow_to_bf16_reference(std::span<const float> x, std::span<uint16_t> out) { std::ranges::transform(x, out.begin(), f32_to_bf16); }

}  // namespace llmc
