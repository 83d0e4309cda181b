// SPDX-License-Identifier: Apache-2.0
// The ceilings: chains of fused multiply-adds that never leave the registers, and a stream that is in no cache.
#include "tools/bench/peak.hpp"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vmoba::tools {

namespace {

// Chains in flight: at least latency (4 cycles) times units (2) are needed; 12 leave room and fit 16 registers.
constexpr int chains = 12;

// Keeps the compiler from seeing that nobody reads the sum.
void keep(float value) { asm volatile("" : : "m"(value) : "memory"); }

constexpr std::int64_t peak_steps = 2'000'000;

// Vectors of four, as the plain tier has them; a multiply and an add where the compiler's baseline has no fused one.
double generic_loop(std::int64_t steps) {
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
__attribute__((target("avx2,fma"))) double haswell_loop(std::int64_t steps) {
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

__attribute__((target("avx512f"))) double skylake_loop(std::int64_t steps) {
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

// Sums of vectors of four, enough of them in flight that memory is what it waits for. Returns the bytes read.
double stream(const float* data, std::int64_t count) {
  using Four = float __attribute__((vector_size(16)));
  Four sums[chains] = {};
  for (std::int64_t i = 0; i + 4 * chains <= count; i += 4 * chains)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sums[c] += *reinterpret_cast<const Four*>(data + i + 4 * c);
  Four all = sums[0];
  for (int c = 1; c < chains; ++c) all += sums[c];
  keep(all[0] + all[1] + all[2] + all[3]);
  return static_cast<double>(count) * sizeof(float);
}

// Median over best of the work a second that `piece` does, for a quarter of a second; it returns its work.
template <class Piece>
double median_over_best(const Piece& piece) {
  using clock = std::chrono::steady_clock;
  std::vector<double> rates;
  for (const auto begun = clock::now(); clock::now() - begun < std::chrono::milliseconds(250);) {
    const auto before = clock::now();
    const double work = piece();
    rates.push_back(work / std::chrono::duration<double>(clock::now() - before).count());
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2] / rates.back();
}

// What all threads did together, from the start of the first to the end of the last: never more than the truth, and the
// best of a few runs is near it even when something else runs meanwhile. loop returns what its thread did.
double measure(const std::function<double(std::size_t thread)>& loop, std::int64_t threads, int runs = 8) {
  using clock = std::chrono::steady_clock;
  double best = 0;
  for (int run = 0; run < runs; ++run) {
    std::barrier gate(static_cast<std::ptrdiff_t>(threads));
    std::vector<clock::time_point> begun(static_cast<std::size_t>(threads)), ended(static_cast<std::size_t>(threads));
    double work = 0;
    {
      std::vector<std::jthread> pool;
      for (std::size_t t = 0; t < begun.size(); ++t)
        pool.emplace_back([&, t] {
          gate.arrive_and_wait();
          begun[t] = clock::now();
          const double done = loop(t);
          ended[t] = clock::now();
          if (t == 0) work = done;  // all do the same
        });
    }
    const auto took = *std::max_element(ended.begin(), ended.end()) - *std::min_element(begun.begin(), begun.end());
    best = std::max(best, work * static_cast<double>(threads) / std::chrono::duration<double>(took).count());
  }
  return best;
}

// The loops that this CPU has the instructions for, the widest last.
std::vector<std::pair<const char*, double (*)(std::int64_t)>> loops_here() {
  std::vector<std::pair<const char*, double (*)(std::int64_t)>> out{{"generic", generic_loop}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) out.emplace_back("haswell", haswell_loop);
  if (__builtin_cpu_supports("avx512f")) out.emplace_back("skylake", skylake_loop);
#endif
  return out;
}

}  // namespace

std::vector<Peak> measure_peaks(std::int64_t threads) {
  std::vector<Peak> out;
  for (const auto& [tier, loop] : loops_here()) {
    out.push_back({tier, measure([loop = loop](std::size_t) { return loop(peak_steps); }, threads)});
  }
  return out;
}

Steadiness measure_steadiness() {
  const auto loop = loops_here().back().second;
  const std::int64_t cache = std::max<std::int64_t>(16384, sysconf(_SC_LEVEL1_DCACHE_SIZE));
  const std::int64_t count = cache / 2 / static_cast<std::int64_t>(sizeof(float)), times = 400;
  const auto buffer = std::make_unique<float[]>(static_cast<std::size_t>(count));
  return {median_over_best([&] { return loop(peak_steps / 80); }), median_over_best([&] {
            double bytes = 0;
            for (std::int64_t i = 0; i < times; ++i) bytes += stream(buffer.get(), count);
            return bytes;
          })};
}

Bandwidth measure_bandwidth(std::int64_t threads) {
  const std::int64_t cache = std::max<std::int64_t>(0, sysconf(_SC_LEVEL3_CACHE_SIZE));
  const std::int64_t memory = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  const std::int64_t bytes = std::min(std::max<std::int64_t>(std::int64_t{1} << 29, 4 * cache), memory / 4);
  const std::int64_t each = bytes / threads / 64 * 16;  // floats of a thread, in whole cache lines
  std::vector<std::unique_ptr<float[]>> buffers(static_cast<std::size_t>(threads));
  const double rate = measure(
      [&](std::size_t thread) {
        auto& buffer = buffers[thread];
        if (!buffer) {  // the first run touches the pages, from the thread that reads them
          buffer = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(each));
          std::fill_n(buffer.get(), each, 1.0F);
        }
        return stream(buffer.get(), each);
      },
      threads, 6);
  return {rate, each * threads * static_cast<std::int64_t>(sizeof(float))};
}

const Peak& peak_of(const std::vector<Peak>& peaks, std::string_view backend) {
  for (const Peak& one : peaks)
    if (backend == "cpu:" + one.tier) return one;
  return peaks.back();
}

}  // namespace vmoba::tools
