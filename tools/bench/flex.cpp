// SPDX-License-Identifier: Apache-2.0
// Asks the Python package for FlexAttention's time.
#include "tools/bench/flex.hpp"

#include <fmt/format.h>

#include "tools/parse.hpp"
#include "tools/process.hpp"

namespace vmoba::tools {

FlexRequest flex_request(const BenchCase& one, std::int64_t threads) {
  const SparseCase& sparse = one.sparse.back();
  const auto* rule = std::get_if<Threshold>(&sparse.policy);
  return {.grid = one.grid,
          .heads = one.heads,
          .dim = one.dim,
          .threads = threads,
          .block = sparse.block,
          .tau = rule ? rule->tau : 0.25};
}

Json measure_flex(const FlexRequest& request, const std::string& python) {
  const Json asked = {{"grid", {request.grid.t, request.grid.y, request.grid.x}},
                      {"heads", request.heads},
                      {"dim", request.dim},
                      {"threads", request.threads},
                      {"block", to_text(request.block)},
                      {"tau", request.tau},
                      {"densities", request.densities},
                      {"repeats", 5}};
  const Outcome outcome = run_process({find_python(python), "-m", "vmoba._flex", asked.dump()}, true);
  const Json told = Json::parse(outcome.out, nullptr, false);
  if (told.is_object()) return told;
  return {{"skipped",
           fmt::format("python -m vmoba._flex ended with code {}: {}", outcome.code, last_line(outcome.errors))}};
}

std::string flex_text(const Json& flex) {
  if (flex.contains("skipped")) return fmt::format("FlexAttention: skipped, {}\n", flex["skipped"].get<std::string>());
  Table table({"FlexAttention, forward", "density", "tiles", "flex", "torch SDPA", "vmoba.attend", "flex vs torch",
               "vmoba vs flex", "difference"});
  for (const Json& run : flex["runs"]) {
    const double seconds = run["seconds"], sdpa = run["sdpa_seconds"], ours = run["vmoba_seconds"];
    table.add({run["selection"], fmt::format("{:.3f}", run["density"].get<double>()),
               fmt::format("{:.3f}", run["tile_density"].get<double>()), seconds_text(seconds), seconds_text(sdpa),
               seconds_text(ours), fmt::format("{:.2f}x", sdpa / seconds), fmt::format("{:.2f}x", seconds / ours),
               fmt::format("{:.1e}", run["relative_error_to_vmoba"].get<double>())});
  }
  return table.text() + fmt::format(
                            "{} heads of {}, f32; tiles: share of 128 x 128 tiles that FlexAttention computes; "
                            "compiled in {}; backward: {}\n",
                            flex["heads"].get<std::int64_t>(), flex["dim"].get<std::int64_t>(),
                            seconds_text(flex["compile_seconds"]), flex["backward"].get<std::string>());
}

}  // namespace vmoba::tools
