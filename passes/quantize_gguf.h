// Owns the pass that rounds weights to the block types of GGUF files.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// Options: types (as the recipe's gguf, which it is taken from when left out: passes/gguf_options.h); rounding (weighted: each block
/// on its own, errors weighed by the mean square of the input, as llama.cpp's imatrix does; compensated: GPTQ on the scales of that
/// search, refined against the layer's output), and for compensated damping, order, refinements and drift_correction
/// (passes/gptq_rounder.h). Throws Error(usage).
std::unique_ptr<Pass> make_quantize_gguf(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
