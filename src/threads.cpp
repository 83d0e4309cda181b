// SPDX-License-Identifier: Apache-2.0
// ThreadPool: a small pool behind Execution::parallel_for, for programs without threads of their own.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "vmoba/error.hpp"
#include "vmoba/execution.hpp"

namespace vmoba {

namespace {

// One call of parallel_for. Indices are handed out one by one, so a call may ask for more or fewer workers than there
// are threads. The first exception is kept; the other indices still run, so that every body runs exactly once.
struct Call {
  std::int64_t workers = 0;
  const std::function<void(std::int64_t)>* body = nullptr;
  std::atomic<std::int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;

  void run() {
    for (std::int64_t worker = next++; worker < workers; worker = next++) {
      try {
        (*body)(worker);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
      }
    }
  }
};

}  // namespace

struct ThreadPool::State {
  std::atomic_flag busy;  // during a call; a nested or concurrent call runs in its own thread instead
  std::mutex mutex;       // guards the fields below
  std::condition_variable_any wake;
  std::condition_variable idle;
  Call* call = nullptr;               // current call, null between calls
  std::uint64_t number = 0;           // of the current call: a thread joins each at most once
  std::int64_t inside = 0;            // pool threads inside the current call
  std::vector<std::jthread> threads;  // last: stopped and joined before the fields above go

  void serve(std::stop_token stop) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (wake.wait(lock, stop, [&] { return call != nullptr && number != seen; })) {
      seen = number;
      Call* const mine = call;
      ++inside;
      lock.unlock();
      mine->run();
      lock.lock();
      if (--inside == 0) idle.notify_all();
    }
  }

  void parallel_for(std::int64_t workers, const std::function<void(std::int64_t)>& body) {
    Call mine;
    mine.workers = workers;
    mine.body = &body;
    if (workers > 1 && !threads.empty() && !busy.test_and_set(std::memory_order_acquire)) {
      {
        const std::lock_guard lock(mutex);
        call = &mine;
        ++number;
      }
      const auto helpers = std::min<std::int64_t>(workers - 1, static_cast<std::int64_t>(threads.size()));
      for (std::int64_t i = 0; i < helpers; ++i) wake.notify_one();
      mine.run();
      std::unique_lock lock(mutex);
      call = nullptr;  // a thread that wakes only now finds nothing
      idle.wait(lock, [&] { return inside == 0; });
      busy.clear(std::memory_order_release);
    } else {
      mine.run();
    }
    if (mine.failure) std::rethrow_exception(mine.failure);
  }
};

ThreadPool::ThreadPool(std::int64_t threads) {
  if (threads < 1) {
    throw_argument("threads", std::to_string(threads), "must be at least 1", "use 1 to run in the calling thread");
  }
  state_ = std::make_unique<State>();
  State* const state = state_.get();
  state->threads.reserve(static_cast<std::size_t>(threads - 1));
  for (std::int64_t i = 1; i < threads; ++i) {
    state->threads.emplace_back([state](std::stop_token stop) { state->serve(std::move(stop)); });
  }
}

ThreadPool::~ThreadPool() = default;

std::int64_t ThreadPool::threads() const { return static_cast<std::int64_t>(state_->threads.size()) + 1; }

Execution ThreadPool::execution(std::string backend) {
  Execution result;
  result.backend = std::move(backend);
  result.threads = threads();
  result.parallel_for = [state = state_.get()](std::int64_t workers, const std::function<void(std::int64_t)>& body) {
    state->parallel_for(workers, body);
  };
  return result;
}

}  // namespace vmoba
