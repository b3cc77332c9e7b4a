#include "verify/training_curve.h"

#include <nlohmann/json.hpp>

#include "verify/line_plot.h"

namespace llmc {

std::string draw_training(const nlohmann::json& curve) {
  LinePlot plot{.title = "loss", .x_label = "step", .x = curve.at("step").get<std::vector<double>>(), .lines = {}};
  for (const auto& [name, values] : curve.items())
    if (name != "step") plot.lines.emplace_back(name, values.get<std::vector<double>>());
  return draw_svg(std::span(&plot, 1));
}

}  // namespace llmc
