// Owns the plot of a training's losses.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace llmc {

/// `curve`: "step", a list of numbers, and lists of the same length by the name of a loss. SVG text.
std::string draw_training(const nlohmann::json& curve);

}  // namespace llmc
