// Owns measuring an importance matrix: how large the inputs of a model's linear layers are on calibration text.
#pragma once

#include "calib/sweep.h"
#include "core/run_context.h"
#include "formats/imatrix.h"
#include "model/model.h"

namespace llmc {

/// Throws Error(usage) for a model that no imatrix is made of.
void refuse_experts(const Model& model);

/// One entry for every linear weight of the blocks and one for the head (by the embedding's name, if it is tied to it), in one
/// forward pass of the model as it is. Sums are added up in f64, in the order of the sequences: the same bits for any number of
/// threads. Datasets and chunks are left to the caller. Throws Error(input) for inputs that are not finite.
/// Memory: one block's weights and the hidden states of all sequences, which spill to a file beyond options.max_memory.
Imatrix collect_imatrix(const Model& model, const Sequences& sequences, const SweepOptions& options, const RunContext& context);

}  // namespace llmc
