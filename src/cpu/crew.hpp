// SPDX-License-Identifier: Apache-2.0
// Who runs the loops of a call that has many, some within others: its workers, woken once. Who has nothing left to do
// takes items of the loops of others, so that the last head of a selection is not one worker's alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <vector>

#include "cpu/parallel.hpp"

namespace vmoba::cpu {

class Crew;

// One worker's way to run loops. By default the calling thread alone, as worker 0. Loops leave their results per item
// and reduce them in item order, so that nothing depends on who ran what.
class Runner {
 public:
  Runner() = default;
  std::int64_t workers() const;
  std::int64_t worker() const { return worker_; }  // < workers()
  // body(item, const Runner&) once for every item; returns when all are done, and throws what the first of them that
  // failed threw. The Runner is that of the worker that has the item, for loops inside; while a body runs, no other
  // body has the same worker but those of its own loops, so a worker's scratch is the body's. Loops in loops in loops
  // are run by one worker.
  template <class Body>
  void operator()(std::int64_t items, const Body& body) const {
    if (crew_ == nullptr || items <= 1 || level_ == levels) {
      const Runner inside(crew_, worker_, level_ == levels ? levels : level_ + 1);
      for (std::int64_t item = 0; item < items; ++item) body(item, inside);
      return;
    }
    share(items, &body, [](const void* what, std::int64_t item, const Runner& inside) {
      (*static_cast<const Body*>(what))(item, inside);
    });
  }

 private:
  friend class Crew;
  using Call = void (*)(const void* body, std::int64_t item, const Runner& inside);
  static constexpr std::int64_t levels = 2;  // of loops that are shared
  Runner(Crew* crew, std::int64_t worker, std::int64_t level) : crew_(crew), worker_(worker), level_(level) {}
  void share(std::int64_t items, const void* body, Call call) const;
  Crew* crew_ = nullptr;
  std::int64_t worker_ = 0, level_ = 0;
};

// The workers of one call of an execution. One that leads runs the call, the others help until it is done. Nobody waits
// for a worker that has not begun, so an execution that runs its workers one after another is no trouble.
class Crew {
 public:
  // lead(const Runner&), once, in one of the workers of the execution, whichever comes first; throws what it throws.
  template <class Lead>
  static void run(const Execution& execution, const Lead& lead) {
    const std::int64_t workers = cpu::workers(execution);
    if (workers <= 1) {
      lead(Runner());
      return;
    }
    Crew crew(workers);
    execution.parallel_for(workers, [&](std::int64_t worker) {
      if (crew.led_.test_and_set()) {
        crew.help(worker);
        return;
      }
      const Finish finish{crew};
      lead(Runner(&crew, worker, 0));
    });
  }
  static std::int64_t bytes(std::int64_t workers);

 private:
  friend class Runner;
  // A loop that is open to others.
  struct alignas(64) Loop {
    std::atomic<bool> open{false};
    std::atomic<std::int64_t> helpers{0};  // inside, or about to find it closed
    std::atomic<std::int64_t> items{0};
    const void* body = nullptr;
    Runner::Call call = nullptr;
    std::exception_ptr failure;  // the first
    std::atomic<bool> failed{false};
    alignas(64) std::atomic<std::int64_t> next{0};
  };
  struct Finish {
    Crew& crew;
    ~Finish() { crew.done_.store(true); }
  };

  explicit Crew(std::int64_t workers);
  Loop& loop(std::int64_t worker, std::int64_t level) {
    return loops_[static_cast<std::size_t>(worker * Runner::levels + level)];
  }
  void share(std::int64_t worker, std::int64_t level, std::int64_t items, const void* body, Runner::Call call);
  void take(Loop& loop, std::int64_t worker, std::int64_t level);
  bool help_once(std::int64_t worker, std::int64_t from_level);
  void help(std::int64_t worker);

  const std::int64_t workers_;
  std::atomic_flag led_;
  std::atomic<bool> done_{false};
  std::vector<Loop> loops_;  // [workers][levels]
};

inline std::int64_t Runner::workers() const { return crew_ == nullptr ? 1 : crew_->workers_; }

}  // namespace vmoba::cpu
