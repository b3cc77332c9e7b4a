#include "verify/oracle_rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace llmc {

// Su 2021 (θ^(−2i/d)); linear: Chen 2023; dynamic: base · (s·L/C − (s − 1))^(d/(d−2)); yarn: Peng 2023, section 3.2; longrope: Ding 2024,
// eq. 3; llama3: by the wavelength λ = 2π/f against the context C that the frequencies come from.
std::vector<float> oracle_rope_frequencies(const Rope& rope, int64_t length) {
  const auto d = static_cast<double>(rope.dim), s = rope.factor, context = rope.original_context;
  double base = rope.theta;
  if (rope.scaling == RopeScaling::dynamic) base *= std::pow(s * std::max(static_cast<double>(length), context) / context - (s - 1), d / (d - 2));
  // Peng 2023, eq. 17: the pair that makes β turns within the context.
  const auto pair_of = [&](double turns) { return d * std::log(context / (turns * 2 * std::numbers::pi)) / (2 * std::log(base)); };
  std::vector<float> result;
  for (int64_t i = 0; 2 * i < rope.dim; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.dim);
    double f = static_cast<float>(1.0 / std::pow(base, static_cast<double>(exponent)));
    if (rope.scaling == RopeScaling::longrope) f = 1 / static_cast<double>((static_cast<double>(length) > context ? rope.long_factors : rope.short_factors)[static_cast<size_t>(i)] * static_cast<float>(std::pow(base, static_cast<double>(exponent))));
    const double wavelength = 2 * std::numbers::pi / f;
    if (rope.scaling == RopeScaling::linear) f /= s;
    if (rope.scaling == RopeScaling::llama3) {
      const double longest = context / rope.low, shortest = context / rope.high;
      const double smooth = (context / wavelength - rope.low) / (rope.high - rope.low);
      if (wavelength > longest) f /= s;
      else if (wavelength >= shortest) f = (1 - smooth) * f / s + smooth * f;
    }
    if (rope.scaling == RopeScaling::yarn) {
      double low = pair_of(rope.fast), high = pair_of(rope.slow);
      if (rope.whole_ramp) low = std::floor(low), high = std::ceil(high);
      low = std::max(low, 0.0), high = std::min(high, d - 1);
      if (low == high) high += 1e-3;
      const double kept = 1 - std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);  // γ of eq. 18
      f = (1 - kept) * f / s + kept * f;
    }
    result.push_back(static_cast<float>(f));
  }
  return result;
}

}  // namespace llmc
