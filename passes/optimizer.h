// Owns what a user may ask of an optimizer, and the size of its steps over a training.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "passes/adam.h"

namespace llmc {

enum class Optimizer {
  adamw,  ///< Loshchilov 2019: Adam, and each value shrinks by rate · weight decay
  sgd,    ///< with momentum: m = β₁ · m + gradient + weight decay · value; value −= rate · m
};
std::string_view to_string(Optimizer optimizer);
/// "adamw", "sgd". Throws Error(usage) naming `where`.
Optimizer parse_optimizer(const std::string& text, const std::string& where);

/// One step of all elements of a tensor.
struct OptimizerStep {
  Optimizer optimizer = Optimizer::adamw;
  float rate = 0;
  float weight_decay = 0;
  AdamDecay decay;
};

enum class Schedule { cosine, linear, constant };
std::string_view to_string(Schedule schedule);
/// "cosine", "linear", "constant". Throws Error(usage) naming `where`.
Schedule parse_schedule(const std::string& text, const std::string& where);

/// The share of the full rate that step `step` of `steps` has, both from 0: it rises along a line over the first `warmup` steps,
/// the last of which has all of it, and then falls to 0 behind the last step, or stays.
double schedule_share(Schedule schedule, int64_t step, int64_t warmup, int64_t steps);

}  // namespace llmc
