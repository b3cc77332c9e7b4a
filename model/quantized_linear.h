// Owns linear layers whose input is rounded while they run: real integer products, or rounded floats where there are none.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "formats/stored_tensor.h"
#include "model/matmul.h"
#include "model/model.h"

namespace llmc {

/// How a linear layer is computed.
enum class Execution {
  floats,     ///< the input as it is
  integers,   ///< input rounded to codes, exact integer sums of codes, then scaled
  simulated,  ///< input rounded to codes and back to floats, then multiplied as floats
};
/// "float", "int8", "simulated".
std::string_view to_string(Execution execution);

/// How Linear runs a weight: integers whenever its codes are integers on a grid, in spans short enough for 32-bit sums.
Execution find_execution(const StoredTensor& weight);

/// Of all layers whose input is rounded: integers if every one is, simulated if one is, floats if there are none.
Execution find_execution(const Model& model);

/// x · Wᵀ + b in integers, y f32:
///   y = b + Σ_groups (s_x · s_w) · Σ (q_x − z_x) · (q_w − z_w)
/// The inner sums are exact; the outer one runs over the groups of a row in order. A row of y depends on that row of x
/// alone. A row of x that holds NaN or infinity gives a row of NaN.
std::unique_ptr<PackedMatrix> make_integer_linear(const QuantizedMatrix& weight, std::span<const float> bias, const InputQuantization& input, MatmulBackend backend);

/// `floats` applied to the rounded input. A row of x that holds NaN or infinity gives a row of NaN.
std::unique_ptr<PackedMatrix> make_simulated_linear(std::unique_ptr<PackedMatrix> floats, const InputQuantization& input);

}  // namespace llmc
