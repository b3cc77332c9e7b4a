// Owns the scan for block influence: how far each decoder block turns the hidden states that go through it.
#pragma once

#include <vector>

#include "passes/pass.h"

namespace llmc {

/// Of each block, the mean over calibration tokens of 1 − cos(h before, h after) (Men 2024, ShortGPT). Nothing is changed.
std::vector<double> measure_block_influence(Model& model, const PassContext& context);

}  // namespace llmc
