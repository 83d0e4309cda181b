// SPDX-License-Identifier: Apache-2.0
// Execution: who runs a call. Threads are the caller's; the engine never starts one by itself.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace vmoba {

// Calls body(worker) for worker in [0, workers), each exactly once, concurrently or not, and returns when all are done.
// Exceptions of body must reach the caller (the engine's bodies do not throw).
using ParallelFor = std::function<void(std::int64_t workers, const std::function<void(std::int64_t worker)>& body)>;

struct Execution {
  std::string backend{};         // "" chooses the best that fits; "cpu", "cpu:haswell", "reference", ... forces one
  std::int64_t threads = 1;      // workers asked of parallel_for; results do not depend on it
  ParallelFor parallel_for{};    // empty: everything runs in the calling thread
};

// A small pool for programs without one of their own. Not for concurrent use by several callers.
class ThreadPool {
 public:
  explicit ThreadPool(std::int64_t threads);  // >= 1; 1 starts none
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  std::int64_t threads() const;
  // An Execution that runs on this pool; valid while the pool lives.
  Execution execution(std::string backend = "");

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vmoba
