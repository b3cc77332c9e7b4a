// Owns the passes that make single weights zero: prune.magnitude.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// The weights of least magnitude go (Han 2015). Options: those of PruneTargets, scope tensor by default.
std::unique_ptr<Pass> make_prune_magnitude(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
