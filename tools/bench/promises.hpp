// SPDX-License-Identifier: Apache-2.0
// --suite issue: what the README promises, as ratios of one run.
#pragma once

#include <vector>

#include "tools/bench/line.hpp"
#include "tools/bench/memory.hpp"
#include "tools/bench/options.hpp"

namespace vmoba::tools {

// The configurations of the suite, onto what the command line left free.
void apply_issue_suite(BenchOptions& options);
ProblemOptions issue_memory_problem();
std::vector<Line> promises(const std::vector<NamedCase>& cases, const std::vector<std::vector<BenchRow>>& rows,
                           const MemoryUse& use);

}  // namespace vmoba::tools
