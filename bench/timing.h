// Owns how the benchmark programs time variants of the same work side by side: in processor time, round by round.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/tensor.h"

namespace llmc::bench {

struct Variant {
  std::string name;
  std::function<void()> run;
};

inline double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

inline double seconds(const std::function<void()>& body) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const double start = now();
  body();
  return now() - start;
}

struct Times {
  double processor, clock;  ///< seconds
};
inline Times time(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  const double processor = seconds(body);
  return {processor, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
}

/// Prints medians over the rounds and, as ratios, the medians of the first variant's time over the others' in the same round.
inline void measure(const std::string& title, const std::vector<Variant>& variants, int rounds) {
  std::vector<std::vector<double>> times(variants.size()), ratios(variants.size());
  for (int round = -1; round < rounds; ++round)  // round -1 warms up
    for (size_t i = 0; i < variants.size(); ++i) {
      const double time = seconds(variants[i].run);
      if (round < 0) continue;
      times[i].push_back(time);
      ratios[i].push_back(times[0].back() / time);
    }
  fmt::print("{:28}", title);
  for (size_t i = 0; i < variants.size(); ++i) fmt::print("  {} {:.2f} ms ({:.2f}x)", variants[i].name, 1e3 * median(times[i]), median(ratios[i]));
  fmt::print("\n");
  std::fflush(stdout);
}

inline Matrix random_matrix(int64_t rows, int64_t cols, const std::string& name) {
  Matrix matrix(rows, cols);
  Random random(1, name);
  for (float& value : matrix.values()) value = static_cast<float>(random.normal());
  return matrix;
}

inline std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  Random random(1, "tokens");
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
  return tokens;
}

}  // namespace llmc::bench
