// SPDX-License-Identifier: Apache-2.0
// What attend allocates: scratch_bytes is honest, the bounds of the design hold, and the caller's floating-point state
// comes back as it was. This file replaces the global allocation functions of its program to count them.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "check/problems.hpp"
#include "check/tensors.hpp"

namespace {

std::atomic<std::int64_t> held{0}, peak{0};
constexpr std::size_t header = 64;  // remembers the size in front of what is handed out, at any alignment up to 64

void* take(std::size_t bytes) {
  char* p = static_cast<char*>(std::aligned_alloc(64, (bytes + header + 63) / 64 * 64));
  if (!p) throw std::bad_alloc();
  *reinterpret_cast<std::size_t*>(p) = bytes;
  const std::int64_t now = held += static_cast<std::int64_t>(bytes);
  for (std::int64_t seen = peak; seen < now && !peak.compare_exchange_weak(seen, now);) {
  }
  return p + header;
}
void give(void* p) {
  if (!p) return;
  char* begin = static_cast<char*>(p) - header;
  held -= static_cast<std::int64_t>(*reinterpret_cast<std::size_t*>(begin));
  std::free(begin);
}

}  // namespace

void* operator new(std::size_t bytes) { return take(bytes); }
void* operator new[](std::size_t bytes) { return take(bytes); }
void* operator new(std::size_t bytes, std::align_val_t) { return take(bytes); }
void* operator new[](std::size_t bytes, std::align_val_t) { return take(bytes); }
void operator delete(void* p) noexcept { give(p); }
void operator delete[](void* p) noexcept { give(p); }
void operator delete(void* p, std::size_t) noexcept { give(p); }
void operator delete[](void* p, std::size_t) noexcept { give(p); }
void operator delete(void* p, std::align_val_t) noexcept { give(p); }
void operator delete[](void* p, std::align_val_t) noexcept { give(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { give(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { give(p); }

namespace vmoba::test {
namespace {

TEST(AttendMemory, ScratchBytesIsWhatIsAllocated) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t dim : {72, 128}) {  // where attend needs more than select, whose figure is a bound
      for (const std::int64_t threads : {1, 3}) {
        const Problem problem({.grid = {18, 16, 16}, .block = {3, 8, 8}, .heads = 2, .dim = dim, .dtype = dtype});
        Tensors t = Tensors::random(problem, 1);
        ThreadPool pool(threads);
        const Execution execution = pool.execution("cpu");
        const std::int64_t said = scratch_bytes(problem, execution);
        Selection selection = select(problem, t.q, t.k, execution);
        const std::int64_t before = held;
        peak = before;
        run(problem, &selection, t, execution);
        const std::int64_t used = peak - before;
        EXPECT_LE(used, said + 16384) << words(problem) << " threads " << threads;
        select_into(problem, t.q, t.k, selection, execution);
        EXPECT_LE(peak - before, said + 16384) << words(problem) << " threads " << threads;
        EXPECT_GE(peak - before, said * 9 / 10) << words(problem) << " threads " << threads;
      }
    }
  }
}

// 33K tokens, 12 heads, D 128: within 0.1 GB; the fp32 sums of 16-bit gradients counted apart.
TEST(AttendMemory, StaysSmallAtThirtyThreeThousandTokens) {
  for (const std::int64_t threads : {1, 2, 4}) {
    Execution execution{.backend = "cpu", .threads = threads};
    execution.parallel_for = [](std::int64_t, const std::function<void(std::int64_t)>&) {};
    ProblemOptions options{.grid = {21, 30, 52}, .block = {7, 5, 13}, .heads = 12, .dim = 128};
    EXPECT_LE(scratch_bytes(Problem(options), execution), 100'000'000) << threads;
    options.dtype = DType::bf16;
    const std::int64_t sums = threads > 3 ? 0 : threads * 21 * 30 * 52 * 128 * 4;
    if (threads <= 3) {
      EXPECT_LE(scratch_bytes(Problem(options), execution) - sums, 100'000'000) << threads;
    }
  }
}

#if defined(__x86_64__)
TEST(AttendMemory, FloatingPointStateComesBack) {
  const Problem problem({.grid = {2, 3, 4}, .dim = 8});
  Tensors t = Tensors::random(problem, 2);
  for (const Backend& backend : backends()) {
    if (!backend.unavailable().empty()) continue;
    for (const unsigned state : {0x1f80u, 0x9fc0u}) {
      const unsigned saved = _mm_getcsr();
      _mm_setcsr(state);
      run(problem, nullptr, t, {.backend = std::string(backend.name)});
      const unsigned after = _mm_getcsr();
      _mm_setcsr(saved);
      EXPECT_EQ(after & 0xffc0u, state & 0xffc0u) << backend.name;  // the low bits are sticky exception flags
    }
  }
}
#endif

}  // namespace
}  // namespace vmoba::test
