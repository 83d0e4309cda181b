// SPDX-License-Identifier: Apache-2.0
// Crew: loops within loops, however the execution runs its workers.
#include "cpu/crew.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace vmoba {
namespace {

using cpu::Crew;
using cpu::Runner;

// The calling thread runs the workers one after another, in either order.
Execution one_by_one(std::int64_t workers, bool backwards) {
  return {.threads = workers,
          .parallel_for = [backwards](std::int64_t count, const std::function<void(std::int64_t)>& body) {
            for (std::int64_t i = 0; i < count; ++i) body(backwards ? count - 1 - i : i);
          }};
}

void for_each_execution(const std::function<void(const Execution&)>& test) {
  test({});
  for (const std::int64_t workers : {1, 2, 3, 7}) {
    ThreadPool pool(workers);
    Execution execution = pool.execution();
    test(execution);
    execution.threads = workers + 2;  // more than there are threads
    test(execution);
    test(one_by_one(workers, false));
    test(one_by_one(workers, true));
  }
}

TEST(Crew, RunsEveryItemOnceOnAnyThreads) {
  for_each_execution([](const Execution& execution) {
    for (int repeat = 0; repeat < 30; ++repeat) {
      std::vector<int> runs(5 * 9 * 3);
      std::atomic<int> leads{0};
      Crew::run(execution, [&](const Runner& runner) {
        ++leads;
        runner(5, [&](std::int64_t i, const Runner& outer) {
          for (int again = 0; again < 2; ++again) {  // a loop after a loop, on the same board
            outer(9, [&](std::int64_t j, const Runner& inner) {
              inner(3, [&](std::int64_t k, const Runner&) { ++runs[static_cast<std::size_t>((i * 9 + j) * 3 + k)]; });
            });
            for (std::int64_t j = 0; j < 27; ++j) {  // what the items left is there when the loop returns
              if (runs[static_cast<std::size_t>(i * 27 + j)] != again + 1) ADD_FAILURE() << i << " " << j;
            }
          }
        });
        runner(0, [&](std::int64_t, const Runner&) { ADD_FAILURE() << "no items"; });
      });
      EXPECT_EQ(leads, 1);
      EXPECT_EQ(std::count(runs.begin(), runs.end(), 2), static_cast<std::ptrdiff_t>(runs.size()));
    }
  });
}

// While a body runs, no other has its worker but those of its own loops.
TEST(Crew, AWorkerIsInOneBodyOnAnyThreads) {
  for_each_execution([](const Execution& execution) {
    std::vector<std::atomic<int>> outer(16), inner(16);
    Crew::run(execution, [&](const Runner& runner) {
      EXPECT_LE(runner.workers(), 9);
      runner(9, [&](std::int64_t, const Runner& mine) {
        const auto me = static_cast<std::size_t>(mine.worker());
        EXPECT_LT(mine.worker(), mine.workers());
        EXPECT_EQ(outer[me]++, 0);
        mine(20, [&](std::int64_t, const Runner& item) {
          const auto who = static_cast<std::size_t>(item.worker());
          EXPECT_EQ(inner[who]++, 0);
          EXPECT_TRUE(who == me || outer[who] == 0) << "busy with an item of its own";
          // Helpers are slow, so that owners wait for them while others have items left.
          std::this_thread::sleep_for(std::chrono::microseconds(who == me ? 20 : 1000));
          --inner[who];
        });
        --outer[me];
      });
    });
  });
}

// A loop returns when the items of its helpers are done too.
TEST(Crew, WaitsForItsHelpersOnAnyThreads) {
  for_each_execution([](const Execution& execution) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      Crew::run(execution, [&](const Runner& runner) {
        std::vector<int> done(12);
        runner(12, [&](std::int64_t i, const Runner& mine) {
          std::this_thread::sleep_for(std::chrono::microseconds(mine.worker() == runner.worker() ? 10 : 300));
          done[static_cast<std::size_t>(i)] = 1;
        });
        EXPECT_EQ(std::count(done.begin(), done.end(), 1), 12);
      });
    }
  });
}

// One outer item is left: the other threads take its inner ones.
TEST(Crew, ThreadsHelpWithTheLastItem) {
  ThreadPool pool(3);
  std::set<std::thread::id> seen;
  std::mutex mutex;
  for (int attempt = 0; attempt < 100 && seen.size() < 3; ++attempt) {
    seen.clear();
    Crew::run(pool.execution(), [&](const Runner& runner) {
      runner(1, [&](std::int64_t, const Runner& mine) {
        mine(64, [&](std::int64_t, const Runner&) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          const std::lock_guard lock(mutex);
          seen.insert(std::this_thread::get_id());
        });
      });
    });
  }
  EXPECT_EQ(seen.size(), 3u);
}

TEST(Crew, FailuresReachTheCallerFromAnyThread) {
  for_each_execution([](const Execution& execution) {
    for (const int where : {0, 1, 2, 3}) {
      std::atomic<int> after{0};
      try {
        Crew::run(execution, [&](const Runner& runner) {
          if (where == 0) throw std::runtime_error("0");
          runner(6, [&](std::int64_t i, const Runner& outer) {
            if (where == 1 && i == 4) throw std::runtime_error("1");
            outer(6, [&](std::int64_t j, const Runner&) {
              if (where == 2 && i == 3 && j == 5) throw std::runtime_error("2");
            });
          });
          if (where == 3) throw std::runtime_error("3");
          ++after;
        });
        ADD_FAILURE() << "nothing thrown";
      } catch (const std::runtime_error& error) {
        EXPECT_EQ(error.what(), std::to_string(where));
      }
      EXPECT_EQ(after, 0);
    }
    int ran = 0;  // and the execution can be used again
    Crew::run(execution, [&](const Runner&) { ++ran; });
    EXPECT_EQ(ran, 1);
  });
}

}  // namespace
}  // namespace vmoba
