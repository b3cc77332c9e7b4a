// Owns the oracle: a second, deliberately plain forward pass that the fast one is judged by.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model/model.h"

namespace llmc {

struct OracleOptions {
  std::optional<int> kv_cache_bits = std::nullopt;  ///< as in ForwardOptions
  enum class Inputs {
    exact,    ///< a linear layer takes its input in double precision
    rounded,  ///< rounded to 14 bits first, far fewer than an f32 sum of some hundred terms keeps
  } inputs = Inputs::exact;
};

/// Logits [T, vocabulary], row-major, of one sequence. Scalar loops, double accumulation, one thread, no library; written
/// from the papers (Vaswani 2017, Su 2021, Zhang 2019, Radford 2019, Touvron 2023), sharing no code with model/forward.
/// Rotary angles are those the models were trained with: f32 inverse frequencies times the f32 position.
/// Where a scheme rounds the inputs of a layer, and for a cache of few bits, it computes the codes in double precision.
std::vector<double> compute_oracle_logits(const Model& model, std::span<const int32_t> tokens, const OracleOptions& options = {});

}  // namespace llmc
