// Owns what calibration learns about the input of the output head, which no block holds.
#pragma once

#include "calib/input_statistics.h"
#include "calib/sweep.h"
#include "core/run_context.h"
#include "model/model.h"

namespace llmc {

/// Of the normed hidden states after the last block, over all sequences, in a forward pass of its own. The same bits for any number
/// of threads. Memory: one block, and at most 512 MB of hidden states.
InputStatistics measure_head_input(const Model& model, const Sequences& sequences, const ForwardOptions& options, const RunContext& context);

}  // namespace llmc
