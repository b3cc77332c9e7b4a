// Owns the passes that round every chosen weight to the nearest value of its grid: quantize.rtn, and quantize.awq after rescaling.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// Options: those of QuantizeTargets, and activation_weighted (errors count by the mean square of the weight's input in the
/// searches of mse and hqq). The two differ in defaults only: observer minmax, errors alike, no channel scales; and observer
/// mse, weighted, channel_scales awq.
std::unique_ptr<Pass> make_quantize_rtn(const nlohmann::json& step, const std::string& where);
std::unique_ptr<Pass> make_quantize_awq(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
