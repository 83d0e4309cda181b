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
}

ProblemOptions issue_memory_problem() {
  const Preset& row = preset("paper-81x480x832");
  return {.grid = row.grid, .block = row.cycle[2].block, .heads = 12, .dim = 128, .policy = Threshold{}};
}

std::vector<Line> promises(const std::vector<NamedCase>& cases, const std::vector<std::vector<BenchRow>>& rows,
                           const MemoryUse& use) {
  std::vector<Line> out;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    double forward = 0, both = 0, own_forward = 0, own_both = 0, sparse = 0;
    std::int64_t layers = 0;
    for (const BenchRow& row : rows[i]) {
      const double median = row.times.median();
      const bool is_both = row.direction == "forward+backward";
      if (row.contender == "torch-sdpa" && row.dtype == "f32") (is_both ? both : forward) = median;
      if (row.contender == "vmoba-dense") (is_both ? own_both : own_forward) = median;
      if (row.contender == "vmoba-sparse" && is_both) sparse += median, ++layers;
    }
    const std::string data = cases[i].bench.data + ": ";
    out.push_back({data + "dense forward over torch SDPA f32", forward / own_forward, '>', 1.0});
    out.push_back({data + "dense backward over torch SDPA f32", (both - forward) / (own_both - own_forward), '>', 1.0});
    out.push_back({data + "sparse at density 0.2 over our dense, forward + backward, selection included, mean of 1D 2D "
                          "3D",
                   own_both * static_cast<double>(layers) / sparse, '>', 3.0});
  }
  if (use.problem_with_it.empty())
    out.push_back(
        {"transient memory of a forward + backward at 33K tokens, 12 heads, D 128, GB", use.most() / 1e9, '<', 0.1});
  return out;
}

}  // namespace vmoba::tools
