// Owns the pass quantize.gptq: every chosen weight rounded with the errors compensated, on calibration text.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// Options: those of QuantizeTargets (observer mse by default), damping (0.01), order (natural, activation), refinements
/// (rounds of scale refit and coordinate descent after GPTQ's own pass), drift_correction (whether weights are first
/// corrected for what earlier layers' errors did to their inputs).
std::unique_ptr<Pass> make_quantize_gptq(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
