// Owns the oracle: a second, deliberately plain forward pass that the fast one is judged by.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/model.h"

namespace llmc {

/// Logits [T, vocabulary], row-major, of one sequence. Scalar loops, double accumulation, one thread, no library; written
/// from the papers (Vaswani 2017, Su 2021, Zhang 2019, Radford 2019, Touvron 2023), sharing no code with model/forward.
/// Rotary angles are those the models were trained with: f32 inverse frequencies times the f32 position.
std::vector<double> compute_oracle_logits(const Model& model, std::span<const int32_t> tokens);

}  // namespace llmc
