// Owns the backward pass's elementwise maths, one row at a time: SIMD picked at run time, a plain reference beside each.
#pragma once

#include <span>

#include "model/config.h"

namespace llmc {

// d_x is the gradient of the loss with respect to x. As in kernels.h, every sum has a fixed order.

/// value = f(x), slope = f′(x); either may be `x`. relu has slope 0 at 0.
void activate_with_slope(Activation activation, std::span<const float> x, std::span<float> value, std::span<float> slope);
/// d_x of y = rms_norm(x); adds this row's share to d_weight unless it is empty. `d_x` may be `d_y`.
void rms_norm_backward(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<const float> d_y, std::span<float> d_x, std::span<float> d_weight);
/// d_x of y = layer_norm(x); adds this row's share to d_weight and d_bias unless they are empty. `d_x` may be `d_y`.
void layer_norm_backward(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<const float> d_y, std::span<float> d_x, std::span<float> d_weight, std::span<float> d_bias);
/// From p = softmax(scale · s) and d_p: d_s = scale · p · (d_p − Σ p d_p), in place of d_p.
void softmax_backward(std::span<const float> p, float scale, std::span<float> d_p);
/// y = y + factor · x
void add_scaled(std::span<float> y, float factor, std::span<const float> x);

// The same in plain scalar code and f64, for tests.
void activate_with_slope_reference(Activation activation, std::span<const float> x, std::span<float> value, std::span<float> slope);
void rms_norm_backward_reference(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<const float> d_y, std::span<float> d_x, std::span<float> d_weight);
void layer_norm_backward_reference(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<const float> d_y, std::span<float> d_x, std::span<float> d_weight, std::span<float> d_bias);
void softmax_backward_reference(std::span<const float> p, float scale, std::span<float> d_p);

}  // namespace llmc
