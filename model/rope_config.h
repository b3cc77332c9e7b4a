// Owns reading rotary positions from a config.json.
#pragma once

#include <set>
#include <string>

#include "core/json.h"
#include "model/architecture.h"
#include "model/rope.h"

namespace llmc {

/// From rope_theta and its like, and from rope_parameters (transformers 5) or rope_scaling (before), to `rope` and `window_rope` of a
/// config that has its sizes. Of the objects' unknown fields those in `ignored` ("rope_scaling.name") are let through. Throws Error(input) that names what is missing, contradicts itself or is not understood.
void read_ropes(FieldReader& fields, const Architecture& architecture, const std::set<std::string>& ignored, ModelConfig& config);

}  // namespace llmc
