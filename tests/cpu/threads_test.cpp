// SPDX-License-Identifier: Apache-2.0
// ThreadPool: every worker exactly once, exceptions, nesting, many short calls (the TSan build runs this too).
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "vmoba/error.hpp"
#include "vmoba/execution.hpp"

namespace vmoba {
namespace {

TEST(ThreadPool, CallsEveryWorkerExactlyOnce) {
  for (const std::int64_t threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    const Execution execution = pool.execution("cpu");
    EXPECT_EQ(execution.threads, threads);
    EXPECT_EQ(execution.backend, "cpu");
    for (const std::int64_t workers : {0, 1, 2, 3, 4, 17, 1000}) {
      std::vector<int> calls(static_cast<std::size_t>(workers));  // not atomic: each slot has one writer
      execution.parallel_for(workers, [&](std::int64_t worker) { ++calls.at(static_cast<std::size_t>(worker)); });
      for (const int count : calls) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, RunsBodiesConcurrently) {
  ThreadPool pool(3);
  std::atomic<int> arrived = 0;  // each waits for the others: returns only when all three run at the same time
  pool.execution().parallel_for(3, [&](std::int64_t) {
    ++arrived;
    while (arrived < 3) {
    }
  });
  EXPECT_EQ(arrived, 3);
}

TEST(ThreadPool, PassesTheExceptionAndRunsTheRest) {
  ThreadPool pool(2);
  std::atomic<int> ran = 0;
  const Execution execution = pool.execution();
  for (int repeat = 0; repeat < 20; ++repeat) {
    ran = 0;
    EXPECT_THROW(execution.parallel_for(8,
                                        [&](std::int64_t worker) {
                                          ++ran;
                                          if (worker % 3 == 0) throw std::runtime_error("body");
                                        }),
                 std::runtime_error);
    EXPECT_EQ(ran, 8);
  }
}

TEST(ThreadPool, NestedCallsRunInPlace) {
  ThreadPool pool(2);
  const Execution execution = pool.execution();
  std::atomic<int> inner = 0;
  execution.parallel_for(4, [&](std::int64_t) { execution.parallel_for(5, [&](std::int64_t) { ++inner; }); });
  EXPECT_EQ(inner, 20);
}

TEST(ThreadPool, ManyShortCalls) {
  ThreadPool pool(5);
  const Execution execution = pool.execution();
  std::vector<std::int64_t> sums(7);
  for (int call = 0; call < 3000; ++call) {
    execution.parallel_for(7, [&](std::int64_t worker) { sums[static_cast<std::size_t>(worker)] += worker; });
  }
  for (std::int64_t worker = 0; worker < 7; ++worker) EXPECT_EQ(sums[static_cast<std::size_t>(worker)], 3000 * worker);
}

TEST(ThreadPool, StartsAndStopsWithoutACall) {
  for (int repeat = 0; repeat < 50; ++repeat) ThreadPool pool(4);
}

TEST(ThreadPool, RefusesNoThreads) {
  try {
    ThreadPool pool(0);
    FAIL() << "0 threads were accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.argument(), "threads");
    EXPECT_EQ(error.value(), "0");
  }
}

}  // namespace
}  // namespace vmoba
