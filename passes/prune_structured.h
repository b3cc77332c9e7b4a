// Owns the pass that removes whole structures, so that the model becomes a smaller dense one: prune.structured.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// Options: those of StructureTargets.
std::unique_ptr<Pass> make_prune_structured(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
