// Owns models without a checkpoint: the tensors that a config.json asks for, with random values to train from.
#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "model/model.h"

namespace llmc {

/// Weights are normal with the deviation that config.json names as initializer_range (0.02 without), norms 1 and biases 0, in the
/// type that it names as dtype or torch_dtype (f32 without). A tensor's values depend on the seed and its name. Throws Error(input).
Model make_random_model(const std::filesystem::path& config_file, uint64_t seed, const std::set<std::string>& ignored_config_fields);

}  // namespace llmc
