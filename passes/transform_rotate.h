// Owns the pass transform.rotate: rotations folded into the weights, which leave the function as it is and make it rounder.
#pragma once

#include "passes/pass.h"

namespace llmc {

/// Step options: space (values, residual or all), seed.
///   values: every value head v becomes R·v, undone in attention_output. Exact for every architecture.
///   residual: the residual stream h becomes R·h. Norm weights move into the linear layers that follow; a LayerNorm's mean
///   stays because R keeps the mean. A tied head would need the final norm's weights in one of the two only: refused
///   unless they are all equal.
std::unique_ptr<Pass> make_transform_rotate(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
