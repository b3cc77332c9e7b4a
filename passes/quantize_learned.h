// Owns the pass quantize.learned: GPTQ's result, then rounding and scales of each block learned by gradients.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// Options: those of QuantizeTargets and of GPTQ (gptq_rounder.h), iterations (steps per block, 100), batch (sequences a step).
std::unique_ptr<Pass> make_quantize_learned(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
