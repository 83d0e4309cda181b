// SPDX-License-Identifier: Apache-2.0
// How much memory a forward and a backward really take beyond their tensors.
#pragma once

#include <cstdint>
#include <string>

#include "vmoba/problem.hpp"

namespace vmoba::tools {

struct MemoryUse {
  double tensors = 0;  // bytes resident before the calls: inputs, outputs, gradients, selection
  double select = 0, forward = 0, backward = 0;  // rise of the resident high-water mark over that, each call by itself
  double density = 0;
  double seconds = 0;  // of the three calls together
  double claimed = 0;  // what scratch_bytes says
  std::string backend;
  std::string problem_with_it;  // why it could not be measured; "" when it was
  double most() const {
    return select > forward ? (select > backward ? select : backward) : (forward > backward ? forward : backward);
  }
};
// Runs select, attend and attend_backward once in a forked child of this process on its own threads, every tensor
// touched before, and reads the kernel's resident high-water mark (VmHWM, reset through clear_refs) before and after
// each call. Call it before anything in this process has started threads. Allocator caches count as used: this is what
// the machine had to give.
MemoryUse measure_memory(const ProblemOptions& options, std::int64_t threads, const std::string& backend);

}  // namespace vmoba::tools
