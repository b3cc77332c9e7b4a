// Owns the pass prune.magnitude: the weights of least magnitude become zero (Han 2015).
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// Options: sparsity (share of weights that become 0), scope (tensor, row, global: over what the smallest are ranked),
/// pattern (unstructured, or N:M: at most N of every M neighbours along a row stay), include, exclude.
std::unique_ptr<Pass> make_prune_magnitude(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
