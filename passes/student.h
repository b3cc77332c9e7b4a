// Owns the step that puts another model in the original's place, to be trained by it.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "passes/pass.h"

namespace llmc {

/// One step of a recipe, the first. Option: from, a checkpoint directory, or a config.json for a model of random weights that the
/// run's seed makes. It has the original's vocabulary, and its tokenizer where it has none.
std::unique_ptr<Pass> make_student(const nlohmann::json& step, const std::string& where);

}  // namespace llmc
