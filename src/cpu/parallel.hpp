// SPDX-License-Identifier: Apache-2.0
// Who runs the items of a step: the workers of an execution take them from a counter, in order.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

#include "vmoba/execution.hpp"

namespace vmoba::cpu {

inline std::int64_t workers(const Execution& execution) {
  return execution.parallel_for ? std::max<std::int64_t>(execution.threads, 1) : 1;
}

// body(item, worker) for every item, worker < workers(execution). Items are begun in ascending order: an item may wait
// for progress of lower ones, which are finished or running on other workers. body does not throw.
template <class Body>
void for_items(const Execution& execution, std::int64_t items, const Body& body) {
  const std::int64_t count = std::min(workers(execution), items);
  if (count <= 1) {
    for (std::int64_t item = 0; item < items; ++item) body(item, std::int64_t{0});
    return;
  }
  std::atomic<std::int64_t> next{0};
  execution.parallel_for(count, [&](std::int64_t worker) {
    for (std::int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) body(item, worker);
  });
}

// Returns when a counter that lower items raise has reached `value`.
inline void wait_until(const std::atomic<std::int64_t>& counter, std::int64_t value) {
  for (int spins = 0; counter.load(std::memory_order_acquire) < value; ++spins) {
    if (spins > 64) std::this_thread::yield();
  }
}

}  // namespace vmoba::cpu
