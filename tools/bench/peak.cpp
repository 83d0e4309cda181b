// SPDX-License-Identifier: Apache-2.0
// The multiply-add ceiling: chains of fused multiply-adds that never leave the registers.
#include "tools/bench/peak.hpp"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vmoba::tools {

namespace {

constexpr std::int64_t steps = 2'000'000;
// Chains in flight: at least latency (4 cycles) times units (2) are needed; 12 leave room and fit 16 registers.
constexpr int chains = 12;

// Keeps the compiler from seeing that nobody reads the sum.
void keep(float value) { asm volatile("" : : "m"(value) : "memory"); }

double generic_loop() {
  float sums[chains] = {};
  float factor = 0.999F;
  asm volatile("" : "+m"(factor));
  for (std::int64_t step = 0; step < steps / 8; ++step)
    for (float& sum : sums) sum = sum * factor + 1.0F;
  float all = 0;
  for (const float sum : sums) all += sum;
  keep(all);
  return 2.0 * chains * (steps / 8);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) double haswell_loop() {
  __m256 sums[chains];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  const __m256 factor = _mm256_set1_ps(0.999F), one = _mm256_set1_ps(1.0F);
  for (std::int64_t step = 0; step < steps; ++step)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sums[c] = _mm256_fmadd_ps(sums[c], factor, one);
  __m256 all = sums[0];
  for (int c = 1; c < chains; ++c) all = _mm256_add_ps(all, sums[c]);
  keep(_mm256_cvtss_f32(all));
  return 2.0 * 8 * chains * steps;
}

__attribute__((target("avx512f"))) double skylake_loop() {
  __m512 sums[chains];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  const __m512 factor = _mm512_set1_ps(0.999F), one = _mm512_set1_ps(1.0F);
  for (std::int64_t step = 0; step < steps; ++step)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sums[c] = _mm512_fmadd_ps(sums[c], factor, one);
  __m512 all = sums[0];
  for (int c = 1; c < chains; ++c) all = _mm512_add_ps(all, sums[c]);
  keep(_mm512_cvtss_f32(all));
  return 2.0 * 16 * chains * steps;
}
#endif

double measure(double (*loop)(), std::int64_t threads) {
  using clock = std::chrono::steady_clock;
  double best = 0;
  for (int run = 0; run < 4; ++run) {
    std::barrier gate(static_cast<std::ptrdiff_t>(threads) + 1);
    std::vector<std::jthread> pool;
    double work = 0;
    for (std::int64_t t = 0; t < threads; ++t)
      pool.emplace_back([&, t] {
        gate.arrive_and_wait();
        const double done = loop();
        if (t == 0) work = done;
        gate.arrive_and_wait();
      });
    gate.arrive_and_wait();
    const auto start = clock::now();
    gate.arrive_and_wait();
    best = std::max(best,
                    work * static_cast<double>(threads) / std::chrono::duration<double>(clock::now() - start).count());
  }
  return best;
}

}  // namespace

std::vector<Peak> measure_peaks(std::int64_t threads) {
  std::vector<Peak> out{{"generic", measure(generic_loop, threads)}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    out.push_back({"haswell", measure(haswell_loop, threads)});
  if (__builtin_cpu_supports("avx512f")) out.push_back({"skylake", measure(skylake_loop, threads)});
#endif
  return out;
}

}  // namespace vmoba::tools
