// Owns rotary positions as a config states them, and the frequencies that they mean.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace llmc {

/// How frequencies are stretched so that a model takes more positions than it was first trained on.
enum class RopeScaling {
  none,
  linear,   ///< all by one factor (Chen 2023)
  dynamic,  ///< the base grows with the length of the sequence, once that is beyond the context ("dynamic NTK")
  yarn,     ///< low ones by the factor, high ones not, a ramp between; cosines and sines grow (Peng 2023)
  longrope,  ///< each by a factor of its own, of two sets of them: one for sequences beyond the original context (Ding 2024)
  llama3,   ///< low ones by the factor, high ones not, interpolated between (Grattafiori 2024)
};
std::string_view to_string(RopeScaling scaling);

/// Sizes are counts of positions, unless said otherwise.
struct Rope {
  double theta = 0;
  int64_t dim = 0;  ///< values of a head, from its first one on, that are rotated
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;
  double original_context = 0;  ///< what the frequencies were first trained for; of dynamic: the context
  double low = 1, high = 4;     ///< llama3: wavelengths that fit less often than `low` into it are stretched, more often than `high` not
  double fast = 32, slow = 1;   ///< yarn: the same, as turns over it
  bool whole_ramp = true;       ///< yarn: the ramp starts and ends at whole frequencies
  double magnitude = 1;         ///< yarn and longrope: of cosines and sines
  std::vector<float> short_factors, long_factors;  ///< longrope: [dim / 2] each

  bool operator==(const Rope&) const = default;
  /// Whether a sequence of that length has frequencies of its own.
  bool depends_on(int64_t length) const { return (scaling == RopeScaling::dynamic || scaling == RopeScaling::longrope) && static_cast<double>(length) > original_context; }
};

/// The magnitude of yarn where none is given: 0.1 · ln factor + 1 (Peng 2023, eq. 22).
double default_yarn_magnitude(double factor);
/// That of longrope: √(1 + ln factor / ln original context) (Ding 2024, [arXiv 2402.13753](https://arxiv.org/abs/2402.13753)).
double default_longrope_magnitude(double factor, double original_context);

/// [dim / 2] radians per position, for a sequence of `length`, which matters only where depends_on says so. The roundings
/// to f32 are those of transformers, as they define the model.
std::vector<float> rope_frequencies(const Rope& rope, int64_t length);

}  // namespace llmc
