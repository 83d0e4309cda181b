// SPDX-License-Identifier: Apache-2.0
// The README's figures.
#include "tools/bench/promises.hpp"

#include "vmoba/preset.hpp"

namespace vmoba::tools {

void apply_issue_suite(BenchOptions& options) {
  options.preset = "paper-93x576x1024";
  options.tokens = "8192";
  options.density = "0.2";
  options.dtypes = "f32";
  options.direction = "both";
  options.heads = 4;
  options.dims = "128";
  options.seconds *= 5;  // a round takes 20 s on two cores with AVX2
}

namespace {

// The part of forward + backward that is backward, round by round.
Times backward_of(const Times& both, const Times& forward) {
  if (both.seconds.size() != forward.seconds.size()) return {{both.median() - forward.median()}};
  Times out = both;
  for (std::size_t i = 0; i < out.seconds.size(); ++i) out.seconds[i] -= forward.seconds[i];
  return out;
}

}  // namespace

ProblemOptions issue_memory_problem() {
  const Preset& row = preset("paper-81x480x832");
  return {.grid = row.grid, .block = row.cycle[2].block, .heads = 12, .dim = 128, .policy = Threshold{}};
}

std::vector<Line> promises(const std::vector<NamedCase>& cases, const std::vector<std::vector<BenchRow>>& rows,
                           const MemoryUse& use) {
  std::vector<Line> out;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    Times forward, both, own_forward, own_both;
    double sparse = 0;
    std::int64_t layers = 0;
    for (const BenchRow& row : rows[i]) {
      const bool is_both = row.direction == "forward+backward";
      if (row.contender == "torch-sdpa" && row.dtype == "f32") (is_both ? both : forward) = row.times;
      if (row.contender == "vmoba-dense") (is_both ? own_both : own_forward) = row.times;
      if (row.contender == "vmoba-sparse" && is_both) sparse += row.times.median(), ++layers;
    }
    const std::string data = cases[i].bench.data + ": ";
    const Ratio forwards = ratio(forward, own_forward);
    const Ratio backwards = ratio(backward_of(both, forward), backward_of(own_both, own_forward));
    out.push_back({data + "dense forward over torch SDPA f32", forwards.value, '>', 1.0, forwards.spread});
    out.push_back({data + "dense backward over torch SDPA f32", backwards.value, '>', 1.0, backwards.spread});
    out.push_back({data + "sparse at density 0.2 over our dense, forward + backward, selection included, mean of 1D 2D "
                          "3D",
                   own_both.median() * static_cast<double>(layers) / sparse, '>', 3.0});
  }
  if (use.problem_with_it.empty())
    out.push_back(
        {"transient memory of a forward + backward at 33K tokens, 12 heads, D 128, GB", use.most() / 1e9, '<', 0.1});
  return out;
}

}  // namespace vmoba::tools
