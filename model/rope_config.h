// Owns reading rotary positions from a config.json.
#pragma once

#include "core/json.h"
#include "model/architecture.h"
#include "model/rope.h"

namespace llmc {

/// From rope_theta and its like, and from rope_parameters (transformers 5) or rope_scaling (before), to `rope` and `window_rope` of a
/// config that has its sizes. Throws Error(input) that names what is missing, contradicts itself or is not understood.
void read_ropes(FieldReader& fields, const Architecture& architecture, ModelConfig& config);

}  // namespace llmc
