// Owns the pass quantize.rtn: every chosen weight rounded to the nearest value of its grid.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// Options: scheme, observer (minmax, percentile, mse), percentile, include, exclude, token_embedding, output_head (a
/// scheme or "keep"), tensor_types (a list of {pattern, scheme}; the first that matches decides).
std::unique_ptr<Pass> make_quantize_rtn(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
