// Owns calibration samples that the model writes itself: text of the kind it knows, where the user's own is little or one-sided.
#pragma once

#include "calib/calibration_data.h"
#include "model/model.h"

namespace llmc {

/// Adds `options.generated` samples of data.seqlen tokens to the data, drawn from the model's own distribution (Liu 2023, LLM-QAT).
/// Each begins with the token that config.json says texts begin with, or without one with a token of the samples there.
void add_generated_samples(CalibrationData& data, const Model& model, const CalibrationOptions& options, uint64_t seed, const RunContext& context);

}  // namespace llmc
