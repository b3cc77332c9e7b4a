#include "verify/sensitivity.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "verify/line_plot.h"

namespace llmc {
namespace {

std::vector<double> read_figures(const nlohmann::json& list) {
  std::vector<double> figures;
  for (const auto& figure : list) figures.push_back(figure.is_number() ? figure.get<double>() : NAN);
  return figures;
}

LinePlot make_plot(const std::string& title, const nlohmann::json& scan, const BlockFigures& blocks) {
  LinePlot plot{.title = title, .x_label = "zeros in the block, %", .x = {}, .lines = {}};
  for (double share : read_figures(scan.at("sparsities"))) plot.x.push_back(100 * share);
  for (const auto& [block, figures] : blocks) plot.lines.emplace_back(fmt::format("block {}", block), figures);
  return plot;
}

}  // namespace

BlockFigures mean_output_errors(const nlohmann::json& scan) {
  BlockFigures sums;
  std::map<int64_t, double> layers;
  for (const auto& layer : scan.at("layers")) {
    const auto block = layer.at("block").get<int64_t>();
    const std::vector<double> errors = read_figures(layer.at("errors"));
    sums[block].resize(errors.size());
    for (size_t i = 0; i < errors.size(); ++i) sums[block][i] += errors[i];
    ++layers[block];
  }
  for (auto& [block, errors] : sums)
    for (double& error : errors) error /= layers[block];
  return sums;
}

BlockFigures block_divergences(const nlohmann::json& scan) {
  BlockFigures figures;
  for (const auto& block : scan.at("blocks")) figures[block.at("block").get<int64_t>()] = read_figures(block.at("kl"));
  return figures;
}

std::string draw_sensitivity(const nlohmann::json& scan) {
  const LinePlot plots[] = {make_plot("KL divergence of the model with zeros in one block", scan, block_divergences(scan)), make_plot("relative output error of a block's weights, mean", scan, mean_output_errors(scan))};
  return draw_svg(plots);
}

}  // namespace llmc
