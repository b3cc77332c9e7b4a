// Owns what is said of --ignore-config-field where it does nothing.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/run_context.h"
#include "model/model.h"

namespace llmc {

/// Warns of every field that none of these models needs to have ignored: their configs lack it, or it is understood and was obeyed.
void warn_of_idle_fields(const std::vector<const Model*>& models, const std::set<std::string>& ignored, const RunContext& context);

}  // namespace llmc
