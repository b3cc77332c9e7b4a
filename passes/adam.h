// Owns the optimizer of everything that is learned: Adam (Kingma 2015), one step at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace llmc {

struct AdamDecay {
  float momentum = 0.9f;   ///< β₁
  float memory = 0.95f;    ///< β₂: shorter than usual, as there are some hundred steps only
  float epsilon = 1e-20f;  ///< added to √s: a gradient of 0 moves nothing
};

/// What the elements of one step share. An element moves by rate · m / √s, with m and s the unbiased means of its gradients
/// and of their squares.
struct AdamStep {
  float rate = 0;
  float momentum = 0;
  float memory = 0;
  float unbias_mean = 1;    ///< 1 / (1 − β₁ⁿ)
  float unbias_square = 1;  ///< 1 / (1 − β₂ⁿ)
  float epsilon = 0;

  /// The n-th step, from 1.
  AdamStep(float rate_of_step, const AdamDecay& decay, int64_t n)
      : rate(rate_of_step), momentum(decay.momentum), memory(decay.memory), unbias_mean(1 / (1 - std::pow(momentum, static_cast<float>(n)))), unbias_square(1 / (1 - std::pow(memory, static_cast<float>(n)))), epsilon(decay.epsilon) {}

  /// How far one element moves, against its gradient.
  float move(float gradient, float& mean, float& square) const {
    mean = momentum * mean + (1 - momentum) * gradient;
    square = memory * square + (1 - memory) * gradient * gradient;
    return rate * mean * unbias_mean / (std::sqrt(square * unbias_square) + epsilon);
  }
};

}  // namespace llmc
