// Owns the choice of the heads and channels that go, and the fit of what is left, during the calibration sweep.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "model/cut.h"
#include "passes/hidden_choice.h"
#include "passes/pass.h"
#include "passes/structure_targets.h"

namespace llmc {

/// What stays, and what the report should say of it.
struct StructureChoice {
  Kept kept;
  nlohmann::json details = nlohmann::json::object();
};

/// Chooses by weights alone; the model stays as it is.
StructureChoice choose_by_magnitude(const Model& model, const Sizes& sizes, const std::vector<int64_t>& kept_blocks, const HiddenChoice& hidden);

/// Runs the sweep: what is to go is first set to zero, so that shapes stay what they are. Blocks that go add nothing to the
/// residual stream. Layers read their inputs in the model cut so far; with compensation each is fitted to what the float model
/// computes there, and those that add to the residual stream also to what it lacks by then (fit_kept).
StructureChoice choose_in_sweep(Model& model, const StructureTargets& targets, const Sizes& sizes, const std::vector<int64_t>& kept_blocks, const HiddenChoice& hidden, const PassContext& context);

}  // namespace llmc
