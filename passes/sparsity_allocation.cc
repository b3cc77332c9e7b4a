#include "passes/sparsity_allocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"

namespace llmc {
namespace {

constexpr std::array<std::string_view, 3> names = {"uniform", "owl", "measured"};
constexpr double density_range = 0.08;

}  // namespace

std::string_view to_string(Allocation allocation) { return names[static_cast<size_t>(allocation)]; }

Allocation parse_allocation(std::string_view text, const std::string& where) {
  const auto found = std::ranges::find(names, text);
  if (found == names.end()) throw Error(ErrorKind::usage, fmt::format("{}: allocation '{}' is not known; expected uniform, owl or measured", where, text));
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

double allocation_step(double sparsity) { return std::min({0.05, sparsity, 1 - sparsity}); }

std::vector<double> allocate_by_cost(std::span<const BlockCost> blocks, double sparsity) {
  const double step = allocation_step(sparsity);
  const double range = std::min({density_range, sparsity, 1 - sparsity});
  const size_t count = blocks.size();
  std::vector<double> slopes, bends, sizes;
  double mean_size = 0;
  for (const BlockCost& block : blocks) mean_size += static_cast<double>(block.weights) / static_cast<double>(count);
  for (const BlockCost& block : blocks) {
    slopes.push_back((block.more - block.less) / (2 * step));
    bends.push_back((block.more + block.less - 2 * block.same) / (step * step));
    sizes.push_back(static_cast<double>(block.weights) / mean_size);
  }
  // A parabola that chance made flat, or bent the other way, would run to the end of the range at once.
  const auto [gentlest, steepest] = std::ranges::minmax(slopes);
  const double least_bend = std::max((steepest - gentlest) / (8 * range), 1e-9);
  for (double& bend : bends) bend = std::max(bend, least_bend);
  const auto move = [&](double price) {  // the least of each parabola when a zero is paid `price`, and the sum of the zeros
    std::vector<double> moves;
    double sum = 0;
    for (size_t b = 0; b < count; ++b) {
      moves.push_back(std::clamp((price * sizes[b] - slopes[b]) / bends[b], -range, range));
      sum += moves.back() * sizes[b];
    }
    return std::pair(std::move(moves), sum);
  };
  double low = 0, high = 0;
  for (size_t b = 0; b < count; ++b) {
    low = std::min(low, (slopes[b] - bends[b] * range) / sizes[b]);
    high = std::max(high, (slopes[b] + bends[b] * range) / sizes[b]);
  }
  for (int halving = 0; halving < 100; ++halving) {
    const double middle = (low + high) / 2;
    (move(middle).second < 0 ? low : high) = middle;
  }
  // Between the two last prices, so that the sum is kept to the digit.
  const auto [below, missing] = move(low);
  const auto [above, extra] = move(high);
  const double share = extra > missing ? -missing / (extra - missing) : 0;
  std::vector<double> result;
  for (size_t b = 0; b < count; ++b) result.push_back(sparsity + below[b] + share * (above[b] - below[b]));
  return result;
}

}  // namespace llmc
