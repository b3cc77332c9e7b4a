// Owns seeded randomness: a stream is named, so adding one never shifts another.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace llmc {

/// xoshiro256** (Blackman and Vigna 2018) seeded with SplitMix64 from a seed and the name of its purpose.
class Random {
 public:
  Random(uint64_t seed, std::string_view name) {
    uint64_t mix = seed ^ 0xcbf29ce484222325ull;  // FNV-1a over the name
    for (char c : name) mix = (mix ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
    for (uint64_t& word : state_) {
      mix += 0x9e3779b97f4a7c15ull;
      uint64_t z = mix;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
      word = z ^ (z >> 31);
    }
  }

  uint64_t next() {
    const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// Uniform in [0, bound).
  uint64_t below(uint64_t bound) { return static_cast<uint64_t>(uniform() * static_cast<double>(bound)); }
  /// Standard normal (Box-Muller).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

 private:
  uint64_t state_[4];
};

}  // namespace llmc
