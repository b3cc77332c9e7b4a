// Owns generation: a model writes, several sequences at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/run_context.h"
#include "model/forward.h"

namespace llmc {

/// Every sequence of `length` tokens: the first one given, each of the others drawn from the model's own distribution
/// (temperature 1) after those before. The random stream of a sequence has the name `name` and its number; results do not
/// depend on the number of threads. Memory: the model's weights, and for each thread the keys and values of 32 sequences.
/// Throws Error(input) when a sequence is longer than the model's positions.
std::vector<std::vector<int32_t>> generate(const Model& model, const ForwardOptions& options, const std::vector<int32_t>& first_tokens, int64_t length, uint64_t seed, const std::string& name, const RunContext& context);

}  // namespace llmc
