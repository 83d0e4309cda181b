// SPDX-License-Identifier: Apache-2.0
// The ceilings of the machine, multiply-adds and memory, measured by the program itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmoba::tools {

struct Peak {
  std::string tier;  // "generic", "haswell", "skylake": the instruction sets of the cpu tiers
  double flops = 0;  // fp32 FLOP/s of all threads together; a fused multiply-add counts 2
};
// A loop of independent fused multiply-adds in registers on each of so many threads at once, the best of a few runs.
// Tiers that the CPU lacks are left out. The last is the widest.
std::vector<Peak> measure_peaks(std::int64_t threads);

struct Bandwidth {
  double bytes = 0;         // read a second, by all threads together
  std::int64_t buffer = 0;  // bytes of the buffer that was read: four times the last cache, half a GB at least
};
// Streams a buffer through all of so many threads at once, the best of a few runs. Takes the memory of the buffer; a
// quarter of what the machine has at the most.
Bandwidth measure_bandwidth(std::int64_t threads);

// How much of its best a core gives on the average day: a core that is lent as one hardware thread of two shares its units
// and its first caches with whoever has the other one. Each is the median over the best of a few thousand pieces of some
// 50 us, on one thread.
struct Steadiness {
  double multiply_adds = 0;  // in registers, the instruction set of the last of measure_peaks
  double loads = 0;          // of a buffer that fits half of the first cache
};
Steadiness measure_steadiness();

// The ceiling of the tier of this backend ("cpu:haswell"); the widest when none has its name.
const Peak& peak_of(const std::vector<Peak>& peaks, std::string_view backend);

}  // namespace vmoba::tools
