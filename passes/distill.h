// Owns distillation: every float of a model is trained until it says what the original says, or what the text says.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// One step of a recipe. Options: steps or max_minutes, temperature, kl_weight, ce_weight, rate, batch, accumulate, schedule,
/// warmup, optimizer, weight_decay, clip, cache_teacher, targets (a file of write_soft_targets). What pruning set to zero stays so. Memory: some 7 times the model in f32,
/// the activations of a batch, and the original in f32 one block at a time.
std::unique_ptr<Pass> make_distill(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
