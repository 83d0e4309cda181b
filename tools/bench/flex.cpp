// SPDX-License-Identifier: Apache-2.0
// Asks the Python package for FlexAttention's time.
#include "tools/bench/flex.hpp"

#include <fmt/format.h>

#include "tools/parse.hpp"
#include "tools/process.hpp"

namespace vmoba::tools {

Json measure_flex(const BenchCase& one, std::int64_t threads, const std::string& python) {
  const SparseCase& sparse = one.sparse.back();
  const auto* rule = std::get_if<Threshold>(&sparse.policy);
  const Json request = {{"grid", {one.grid.t, one.grid.y, one.grid.x}},
                        {"heads", one.heads},
                        {"dim", one.dim},
                        {"threads", threads},
                        {"block", to_text(sparse.block)},
                        {"tau", rule ? rule->tau : 0.25},
                        {"repeats", 5}};
  const Outcome outcome = run_process({find_python(python), "-m", "vmoba._flex", request.dump()}, true);
  const Json told = Json::parse(outcome.out, nullptr, false);
  if (told.is_object()) return told;
  std::string last = outcome.errors;
  while (!last.empty() && last.back() == '\n') last.pop_back();
  if (const std::size_t cut = last.find_last_of('\n'); cut != std::string::npos) last = last.substr(cut + 1);
  return {{"skipped", fmt::format("python -m vmoba._flex ended with code {}: {}", outcome.code, last)}};
}

std::string flex_line(const Json& flex) {
  if (flex.contains("skipped")) return fmt::format("FlexAttention: skipped, {}\n", flex["skipped"].get<std::string>());
  return fmt::format(
      "FlexAttention forward, {} tokens, block {}, density {:.3f}, f32: {}; torch SDPA beside it {} ({:.2f}x), ours "
      "beside it {} ({:.2f}x); compiled in {}\n",
      flex["tokens"].get<std::int64_t>(), flex["block"].get<std::string>(), flex["density"].get<double>(),
      seconds_text(flex["seconds"]), seconds_text(flex["sdpa_seconds"]),
      flex["sdpa_seconds"].get<double>() / flex["seconds"].get<double>(), seconds_text(flex["vmoba_seconds"]),
      flex["seconds"].get<double>() / flex["vmoba_seconds"].get<double>(), seconds_text(flex["compile_seconds"]));
}

}  // namespace vmoba::tools
