// Owns what is shown of a sensitivity scan: figures of each block at each share of zeros, as a plot.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace llmc {

/// Block → a figure at each of the scan's shares.
using BlockFigures = std::map<int64_t, std::vector<double>>;

/// Relative output errors, the mean over a block's weights. `scan` is `sensitivity` of docs/report.md.
BlockFigures mean_output_errors(const nlohmann::json& scan);
/// KL divergence of the whole model's predictions with zeros in that block only.
BlockFigures block_divergences(const nlohmann::json& scan);

/// Both, as SVG.
std::string draw_sensitivity(const nlohmann::json& scan);

}  // namespace llmc
