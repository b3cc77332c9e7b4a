// Owns the forward pass's elementwise maths, one row at a time: SIMD picked at run time, a plain reference beside each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "model/config.h"

namespace llmc {

// Every function adds in a fixed order, so the result is the same bits whatever thread runs it; other SIMD widths differ
// in the last bits. NaN in gives NaN out.

/// out = x / sqrt(mean(x²) + epsilon) · weight. The mean is taken in f64. `out` may be `x`.
void rms_norm(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<float> out);
/// out = (x − mean) / sqrt(variance + epsilon) · weight + bias; an empty bias is zero. Mean and (biased) variance in f64.
void layer_norm(std::span<const float> x, std::span<const float> weight, std::span<const float> bias, double epsilon, std::span<float> out);
/// Rotary embedding of one position, in place, in Hugging Face's rotate-half convention: of the first 2·cosines.size()
/// values of each head, (a, b) = (first half, second half) becomes (a·cos − b·sin, b·cos + a·sin).
void rotate_heads(std::span<float> heads, size_t head_dim, std::span<const float> cosines, std::span<const float> sines);
/// row = exp(row − max) / Σ exp(row − max)
void softmax(std::span<float> row);
/// log Σ exp(row), to about 1e-7. NaN if a value is NaN or +∞, or if all are −∞.
double log_sum_exp(std::span<const float> row);
/// Index of the largest value, the first among equals; 0 where there is none because of NaN.
size_t find_largest(std::span<const float> row);
/// Σ p · (log p − log q) in nats with p = exp(logits − log_sum), q alike with other logits: KL divergence (Kullback 1951), in f64.
double sum_divergence(std::span<const float> logits, double log_sum, std::span<const float> other_logits, double other_log_sum);
/// x = f(x); gelu is the exact one (erf), gelu_tanh the approximation that GPT-2 was trained with.
void activate(Activation activation, std::span<float> x);
/// y = y · x
void multiply_by(std::span<float> y, std::span<const float> x);
/// y = y + x
void add_to(std::span<float> y, std::span<const float> x);
/// out [cols] = x [rows] · matrix [rows, cols]
void multiply_row(std::span<const float> x, ConstMatrixView matrix, std::span<float> out);
/// The nearest bf16 (ties to even), as its bits or as f32.
void narrow_to_bf16(std::span<const float> x, std::span<uint16_t> out);
void round_to_bf16(std::span<const float> x, std::span<float> out);

// The same in plain scalar code, for tests. Sums and transcendental functions in f64.
void rms_norm_reference(std::span<const float> x, std::span<const float> weight, double epsilon, std::span<float> out);
void layer_norm_reference(std::span<const float> x, std::span<const float> weight, std::span<const float> bias, double epsilon, std::span<float> out);
void rotate_heads_reference(std::span<float> heads, size_t head_dim, std::span<const float> cosines, std::span<const float> sines);
void softmax_reference(std::span<float> row);
double log_sum_exp_reference(std::span<const float> row);
double sum_divergence_reference(std::span<const float> logits, double log_sum, std::span<const float> other_logits, double other_log_sum);
void activate_reference(Activation activation, std::span<float> x);
void multiply_row_reference(std::span<const float> x, ConstMatrixView matrix, std::span<float> out);
void narrow_to_bf16_reference(std::span<const float> x, std::span<uint16_t> out);

}  // namespace llmc
