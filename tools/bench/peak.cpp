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

// Vectors of four, as the plain tier has them; a multiply and an add where the compiler's baseline has no fused one.
double generic_loop() {
  using Four = float __attribute__((vector_size(16)));
  Four sums[chains] = {};
  Four factor = {0.999F, 0.999F, 0.999F, 0.999F}, one = {1, 1, 1, 1};
  asm volatile("" : "+m"(factor));
  for (std::int64_t step = 0; step < steps; ++step)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sums[c] = sums[c] * factor + one;
  Four all = sums[0];
  for (int c = 1; c < chains; ++c) all += sums[c];
  keep(all[0] + all[1] + all[2] + all[3]);
  return 2.0 * 4 * chains * steps;
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

// From the start of the first thread to the end of the last: never more than the truth, and the best of a few runs is
// near it even when something else runs meanwhile.
double measure(double (*loop)(), std::int64_t threads) {
  using clock = std::chrono::steady_clock;
  double best = 0;
  for (int run = 0; run < 8; ++run) {
    std::barrier gate(static_cast<std::ptrdiff_t>(threads));
    std::vector<clock::time_point> begun(static_cast<std::size_t>(threads)), ended(static_cast<std::size_t>(threads));
    double work = 0;
    {
      std::vector<std::jthread> pool;
      for (std::size_t t = 0; t < begun.size(); ++t)
        pool.emplace_back([&, t] {
          gate.arrive_and_wait();
          begun[t] = clock::now();
          const double done = loop();
          ended[t] = clock::now();
          if (t == 0) work = done;
        });
    }
    const auto took = *std::max_element(ended.begin(), ended.end()) - *std::min_element(begun.begin(), begun.end());
    best = std::max(best, work * static_cast<double>(threads) / std::chrono::duration<double>(took).count());
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

const Peak& peak_of(const std::vector<Peak>& peaks, std::string_view backend) {
  for (const Peak& one : peaks)
    if (backend == "cpu:" + one.tier) return one;
  return peaks.back();
}

}  // namespace vmoba::tools
