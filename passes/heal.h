// Owns healing: what compression left free is trained, end to end or block by block, until the model says what the original says.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// One step of a recipe. The loss is T² · KL(original ‖ model) on the calibration samples; Adam tunes, in whatever form the
/// tensors are by then,
///   the scales of quantized weights      codes and zero points stay, so the artifact is on its grid; of GGUF blocks the f16 ones
///   and, only when asked to, their codes   places between codes learn, which run and end as the codes nearest to them
///   norms and biases
///   the weights that pruning left        zeros stay
/// and leaves everything else as it is. Memory: the model in f32, its weights in both directions, and one block's gradients.
/// With scope "block" the same in each block by itself, against the squared error of its output, on the inputs that the healed blocks
/// before it make: what lies outside of blocks stays, memory is that of a sweep and one block in f32 with its tape, and a kill costs
/// one block.
std::unique_ptr<Pass> make_heal(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
