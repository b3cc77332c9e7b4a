// Owns giving a model whose output head is tied to the embedding a head of its own.
#pragma once

#include <set>
#include <string>

#include "model/model.h"

namespace llmc {

/// The same model with the tied matrix stored twice and a config.json that says so. Throws Error(usage) when the head is not
/// tied.
Model untie_head(Model model, const std::set<std::string>& ignored_config_fields);

}  // namespace llmc
