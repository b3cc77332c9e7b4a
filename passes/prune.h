// Owns the passes that make single weights zero: prune.magnitude, prune.fisher, prune.wanda, prune.sparsegpt.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// Options of all: those of PruneTargets, and reconstruct (whether what is left is fitted to the layer's output; needs
/// calibration), damping (where a second moment is inverted).
/// The weights of least magnitude go (Han 2015), ranked in each tensor.
std::unique_ptr<Pass> make_prune_magnitude(const nlohmann::json& step, const std::string& where);
/// Those of least magnitude times the size of the loss's gradients (LeCun 1989), ranked in each row. Not with reconstruct,
/// allocation or sensitivity, which go layer by layer.
std::unique_ptr<Pass> make_prune_fisher(const nlohmann::json& step, const std::string& where);
/// Those of least magnitude times the norm of their input (Sun 2023), ranked in each row.
std::unique_ptr<Pass> make_prune_wanda(const nlohmann::json& step, const std::string& where);
/// Those that cost least when the others make up for them (Frantar & Alistarh 2023), ranked in each 128 columns.
std::unique_ptr<Pass> make_prune_sparsegpt(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
