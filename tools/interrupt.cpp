// SPDX-License-Identifier: Apache-2.0
// Interrupts: a count that a signal handler may touch, so it lives outside of every object.
#include "tools/interrupt.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "tools/verb.hpp"

namespace vmoba::tools {

namespace {

std::atomic<int> interrupts{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler touches it");

void on_interrupt(int) {
  if (interrupts.fetch_add(1) > 0) _exit(exit_interrupted);
}

}  // namespace

void watch_interrupts(std::initializer_list<int> signals) {
  interrupts = 0;
  for (const int signal : signals) std::signal(signal, on_interrupt);
}

bool interrupted() { return interrupts.load() > 0; }

}  // namespace vmoba::tools
