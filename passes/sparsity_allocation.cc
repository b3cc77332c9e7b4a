#include "passes/sparsity_allocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"

namespace llmc {
namespace {

constexpr std::array<std::string_view, 2> names = {"uniform", "owl"};
constexpr double density_range = 0.08;

}  // namespace

std::string_view to_string(Allocation allocation) { return names[static_cast<size_t>(allocation)]; }

Allocation parse_allocation(std::string_view text, const std::string& where) {
  const auto found = std::ranges::find(names, text);
  if (found == names.end()) throw Error(ErrorKind::usage, fmt::format("{}: allocation '{}' is not known; expected uniform or owl", where, text));
  return static_cast<Allocation>(found - names.begin());
}

std::vector<double> allocate_by_outliers(std::span<const LayerScan> layers, double sparsity) {
  const auto [low, high] = std::ranges::minmax(layers, {}, &LayerScan::outlier_share);
  const double spread = high.outlier_share - low.outlier_share;
  // Where little (or nearly all) is to go the range shrinks, so that every sparsity stays between 0 and 1.
  const double range = std::min({2 * density_range, sparsity, 1 - sparsity});
  std::vector<double> extra;
  double mean = 0, weights = 0;
  for (const LayerScan& layer : layers) {
    extra.push_back(spread > 0 ? (layer.outlier_share - low.outlier_share) / spread * range : 0);
    mean += extra.back() * static_cast<double>(layer.weights);
    weights += static_cast<double>(layer.weights);
  }
  std::vector<double> result;
  for (double density : extra) result.push_back(sparsity - (density - mean / weights));
  return result;
}

}  // namespace llmc
