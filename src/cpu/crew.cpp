// SPDX-License-Identifier: Apache-2.0
#include "cpu/crew.hpp"

#include <thread>
#include <utility>

namespace vmoba::cpu {
namespace {

// Between two looks for work.
class Pause {
 public:
  void operator()() {
    if (++spins_ > 64) std::this_thread::yield();
  }
  void reset() { spins_ = 0; }

 private:
  int spins_ = 0;
};

}  // namespace

Crew::Crew(std::int64_t workers) : workers_(workers), loops_(static_cast<std::size_t>(workers * Runner::levels)) {}

std::int64_t Crew::bytes(std::int64_t workers) {
  return workers <= 1 ? 0 : workers * Runner::levels * static_cast<std::int64_t>(sizeof(Loop));
}

void Runner::share(std::int64_t items, const void* body, Call call) const {
  crew_->share(worker_, level_, items, body, call);
}

// Items of a loop until none is left.
void Crew::take(Loop& loop, std::int64_t worker, std::int64_t level) {
  const Runner inside(this, worker, level + 1);
  const std::int64_t items = loop.items.load(std::memory_order_relaxed);
  for (std::int64_t item; (item = loop.next.fetch_add(1, std::memory_order_relaxed)) < items;) {
    try {
      loop.call(loop.body, item, inside);
    } catch (...) {
      if (!loop.failed.exchange(true)) loop.failure = std::current_exception();
      loop.next.store(items, std::memory_order_relaxed);  // the others are not worth beginning
    }
  }
}

void Crew::share(std::int64_t worker, std::int64_t level, std::int64_t items, const void* body, Runner::Call call) {
  Loop& mine = loop(worker, level);
  mine.body = body;
  mine.call = call;
  mine.failed.store(false, std::memory_order_relaxed);
  mine.items.store(items, std::memory_order_relaxed);
  mine.next.store(0, std::memory_order_relaxed);
  mine.open.store(true);
  take(mine, worker, level);
  // A helper says that it is there before it looks whether the loop is open: seen from here after closing, all that
  // found it open are counted, and those that come now find it closed.
  mine.open.store(false);
  for (Pause pause; mine.helpers.load() > 0;) {
    if (!help_once(worker, level + 1)) pause();
  }
  if (mine.failed.load(std::memory_order_relaxed)) std::rethrow_exception(std::exchange(mine.failure, nullptr));
}

// Takes part in one loop of another worker, if there is one with items left: outer ones first, whose items are larger.
// From from_level on: a worker that waits at some level may use the deeper ones only.
bool Crew::help_once(std::int64_t worker, std::int64_t from_level) {
  for (std::int64_t level = from_level; level < Runner::levels; ++level) {
    for (std::int64_t i = 1; i < workers_; ++i) {
      Loop& other = loop((worker + i) % workers_, level);
      if (!other.open.load(std::memory_order_relaxed) ||
          other.next.load(std::memory_order_relaxed) >= other.items.load(std::memory_order_relaxed)) {
        continue;
      }
      other.helpers.fetch_add(1);
      const bool open = other.open.load();
      if (open) take(other, worker, level);
      other.helpers.fetch_sub(1);
      if (open) return true;
    }
  }
  return false;
}

void Crew::help(std::int64_t worker) {
  for (Pause pause; !done_.load();) {
    if (help_once(worker, 0)) {
      pause.reset();
    } else {
      pause();
    }
  }
}

}  // namespace vmoba::cpu
