// SPDX-License-Identifier: Apache-2.0
// The table of backends, and what each says about a problem.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmoba/attention.hpp"
#include "vmoba/cost.hpp"

namespace vmoba {

// All views are resolved (no 0 strides) and checked. selection null: dense. A plain struct of functions: no virtuals, no
// registration; the table is a constant array in src/backend.cpp, best first.
struct Backend {
  std::string_view name;         // "cpu:skylake", "reference"; "cpu" names the best cpu tier
  std::string_view description;  // one line for people
  std::string (*unavailable)();  // why this machine or binary cannot run it; "" when it can
  std::string (*why_not)(const Problem&);  // why it refuses this problem, in words; "" when it takes it
  void (*select)(const Problem&, const ConstView& q, const ConstView& k, Selection&, const Execution&);
  void (*attend)(const Problem&, const Selection*, const ConstView& q, const ConstView& k, const ConstView& v,
                 const View& out, const View& lse, const Execution&);
  void (*attend_backward)(const Problem&, const Selection*, const BackwardTensors&, const Execution&);
  std::int64_t (*scratch_bytes)(const Problem&, const Execution&);
};

std::span<const Backend> backends();  // best first
// The backend a call with this execution runs on. Order: execution.backend, then the environment variable VMOBA_BACKEND,
// then the first that takes the problem. Throws Error(unsupported) with every refusal.
const Backend& choose_backend(const Problem& problem, const Execution& execution);

// What would happen, without doing it: vmoba explain.
struct Explanation {
  struct Refusal {
    std::string backend, reason;  // reason "" : would run
  };
  std::string backend;                   // chosen; "" when none
  std::vector<Refusal> backends;
  std::int64_t tokens, rows, blocks, smallest_block, largest_block;  // of the first sample
  std::string policy, budget;            // the rule, and what it will keep, in words
  double dense_flops;                    // attention products of one forward: 4 S^2 H D, all samples
  double gate_flops;                     // 2 S N H D
  std::int64_t selection_bytes, scratch_bytes;
  std::string path;                      // "sparse", or "dense" with the reason
  // What the cost model expects (cost.hpp), of a forward and of a forward with its backward, on execution.threads.
  struct Expected {
    Prediction time;
    std::optional<std::int64_t> break_even_tokens;  // nothing: dense is always quicker
    double crossover_density = 0;                   // above it dense is quicker
    std::string quicker;                            // "sparse" or "dense": what an automatic schedule takes
  };
  std::string costs;  // whose costs: "cpu:skylake"
  Expected forward, training;
};
// costs null: those built in for the chosen backend.
Explanation explain(const Problem& problem, const Execution& execution = {}, const CostModel* costs = nullptr);
std::string to_text(const Explanation& explanation);  // a table for people

}  // namespace vmoba
