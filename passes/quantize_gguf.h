// Owns the pass that rounds weights to the block types of GGUF files.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// Options: types (as the recipe's gguf, which it is taken from when left out: passes/gguf_options.h); rounding (weighted: each block
/// on its own, errors weighed by the mean square of the input in the model as it comes, as llama.cpp does with an imatrix;
/// compensated: GPTQ on the scales of that search, refined against the layer's output); for weighted imatrix, a file that says the mean
/// squares, so that no calibration is needed; for compensated damping, order, refinements and drift_correction
/// (passes/gptq_rounder.h). Throws Error(usage).
std::unique_ptr<Pass> make_quantize_gguf(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
