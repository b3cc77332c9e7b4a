#include "model/rope.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace llmc {
namespace {

/// As torch has it: 1.0 / (factors * theta ** (torch.arange(0, dim, 2, dtype=float32) / dim)), where dim is twice as many as factors.
std::vector<float> divided_frequencies(double theta, const std::vector<float>& factors) {
  const auto dim = static_cast<float>(2 * factors.size());
  std::vector<float> frequencies;
  for (size_t i = 0; i < factors.size(); ++i) frequencies.push_back(1.0f / (factors[i] * static_cast<float>(std::pow(theta, static_cast<float>(2 * i) / dim))));
  return frequencies;
}

std::vector<float> plain_frequencies(double theta, int64_t dim) { return divided_frequencies(theta, std::vector<float>(static_cast<size_t>(dim / 2), 1.0f)); }

void scale_llama3(const Rope& rope, std::vector<float>& frequencies) {
  for (float& frequency : frequencies) {
    const double turns = rope.original_context * frequency / (2 * std::numbers::pi);  // over the original context
    const double share = std::clamp((turns - rope.low) / (rope.high - rope.low), 0.0, 1.0);  // of the frequency as it was
    frequency = static_cast<float>((1 - share) * frequency / rope.factor + share * frequency);
  }
}

/// The number, not whole, of the frequency that turns so often over the original context.
double find_frequency(const Rope& rope, double turns) { return static_cast<double>(rope.dim) * std::log(rope.original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta)); }

void scale_yarn(const Rope& rope, std::vector<float>& frequencies) {
  double first = find_frequency(rope, rope.fast), last = find_frequency(rope, rope.slow);
  if (rope.whole_ramp) first = std::floor(first), last = std::ceil(last);
  first = std::max(first, 0.0), last = std::min(last, static_cast<double>(rope.dim - 1));
  if (first == last) last += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    frequencies[i] = static_cast<float>(frequencies[i] / rope.factor * stretched + frequencies[i] * (1 - stretched));
  }
}

}  // namespace

std::string_view to_string(RopeScaling scaling) {
  constexpr std::array names = {"none", "linear", "dynamic", "yarn", "longrope", "llama3"};
  return names[static_cast<size_t>(scaling)];
}

double default_yarn_magnitude(double factor) { return factor <= 1 ? 1 : 0.1 * std::log(factor) + 1; }

double default_longrope_magnitude(double factor, double original_context) { return factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original_context)); }

std::vector<float> rope_frequencies(const Rope& rope, int64_t length) {
  double theta = rope.theta;
  if (rope.scaling == RopeScaling::dynamic && rope.depends_on(length)) {
    const auto dim = static_cast<double>(rope.dim);
    theta *= std::pow(rope.factor * static_cast<double>(length) / rope.original_context - (rope.factor - 1), dim / (dim - 2));
  }
  std::vector<float> frequencies = plain_frequencies(theta, rope.dim);
  switch (rope.scaling) {
    case RopeScaling::none:
    case RopeScaling::dynamic: break;
    case RopeScaling::linear:
      for (float& frequency : frequencies) frequency /= static_cast<float>(rope.factor);
      break;
    case RopeScaling::yarn: scale_yarn(rope, frequencies); break;
    case RopeScaling::longrope: return divided_frequencies(rope.theta, rope.depends_on(length) ? rope.long_factors : rope.short_factors);
    case RopeScaling::llama3: scale_llama3(rope, frequencies); break;
  }
  return frequencies;
}

}  // namespace llmc
