// SPDX-License-Identifier: Apache-2.0
// --suite targets: what the cpu engine should reach, line by line, each a ratio of one run.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tools/bench/line.hpp"
#include "tools/bench/measure.hpp"
#include "tools/bench/memory.hpp"
#include "tools/bench/peak.hpp"
#include "torch/attention.hpp"
#include "vmoba/preset.hpp"

namespace vmoba::tools {

// What the lines of the table share while they are measured.
struct Targets {
  std::vector<std::string> only;  // a line is measured when it holds one of these; empty: all
  bool quick = false;
  std::int64_t threads = 1;
  std::uint64_t seed = 1;
  std::string backend;                          // forced, or ""
  bool amx = false;                             // the column of tiers with matrix tiles
  double peak = 0;                              // FLOP/s of all threads on the tier that runs
  std::function<void(const std::string&)> say;  // what is being measured
  std::vector<Line> lines;                      // what came of it

  bool wants(const std::string& line) const;
  // Interleaved rounds over contenders, each a group of its own unless rivals gives its group.
  void rounds(std::vector<Contender>& contenders, double seconds, std::int64_t most) const;
  void add(Line line) { lines.push_back(std::move(line)); }
};

// Each measures its lines if they are wanted.
void dense_targets(Targets& targets);
void sparse_targets(Targets& targets);     // attend without selection, over 1 / density of our dense
void selection_targets(Targets& targets);  // share of a sparse forward
void break_even_target(Targets& targets);
void doubling_targets(Targets& targets);  // the number of blocks
void thread_targets(Targets& targets);
void training_targets(Targets& targets);  // a step of a video transformer, sparse over dense
// Must come before this process starts threads: it measures in a forked child.
void memory_target(Targets& targets);

}  // namespace vmoba::tools
