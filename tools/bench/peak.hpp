// SPDX-License-Identifier: Apache-2.0
// The multiply-add ceiling of the machine, measured by the program itself.
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
// The ceiling of the tier of this backend ("cpu:haswell"); the widest when none has its name.
const Peak& peak_of(const std::vector<Peak>& peaks, std::string_view backend);

}  // namespace vmoba::tools
