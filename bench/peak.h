// Owns the most that a processor can do: fused multiply-adds of f32 from registers to registers, one thread on each core.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <optional>

#include "bench/timing.h"
#include "core/parallel.h"

namespace llmc::bench {

#if defined(__x86_64__)
// Ten chains, more than the units' latency, from different values, so that none is left out; each step counts as two operations for each float.
[[gnu::target("avx2,fma"), gnu::noinline]] inline float run_avx2(int64_t steps) {
  __m256 sums[10];
  for (int i = 0; i < 10; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.001f);
  for (int64_t step = 0; step < steps; ++step)
#pragma GCC unroll 10
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, factor, term);
  float total = 0;
  for (const __m256& sum : sums) total += _mm256_cvtss_f32(sum);
  return total;
}
[[gnu::target("avx512f"), gnu::noinline]] inline float run_avx512(int64_t steps) {
  __m512 sums[10];
  for (int i = 0; i < 10; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.001f);
  for (int64_t step = 0; step < steps; ++step)
#pragma GCC unroll 10
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, factor, term);
  float total = 0;
  for (const __m512& sum : sums) total += _mm512_cvtss_f32(sum);
  return total;
}

/// Operations per second of processor time, the most of three turns; nothing on processors without AVX2.
inline std::optional<double> measure_peak(int threads) {
  const bool is_wide = __builtin_cpu_supports("avx512f");
  if (!is_wide && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return std::nullopt;
  constexpr int64_t steps = 20'000'000;
  const double operations = 2.0 * 10 * (is_wide ? 16 : 8) * static_cast<double>(steps * threads);
  double most = 0;
  for (int turn = 0; turn < 3; ++turn) {
    std::vector<float> kept(static_cast<size_t>(threads));
    const double spent = seconds([&] { parallel_for(threads, [&](int64_t i) { kept[static_cast<size_t>(i)] = is_wide ? run_avx512(steps) : run_avx2(steps); }); });
    most = std::max(most, operations / spent);
  }
  return most;
}
#else
inline std::optional<double> measure_peak(int) { return std::nullopt; }
#endif

}  // namespace llmc::bench
