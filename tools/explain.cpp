// SPDX-License-Identifier: Apache-2.0
// vmoba explain: what one attention call would do, without doing it.
#include "tools/parse.hpp"

#include <memory>

#include "tools/output.hpp"
#include "tools/verb.hpp"
#include "vmoba/backend.hpp"

namespace vmoba::tools {

namespace {

Json to_json(const Explanation::Expected& e) {
  return {{"density", e.time.density},
          {"select_seconds", e.time.select},
          {"sparse_seconds", e.time.sparse()},
          {"dense_seconds", e.time.dense},
          {"break_even_tokens", e.break_even_tokens ? Json(*e.break_even_tokens) : Json(nullptr)},
          {"crossover_density", e.crossover_density},
          {"quicker", e.quicker}};
}

Json to_json(const Explanation& told) {
  Json out = {{"backend", told.backend},
              {"path", told.path},
              {"policy", told.policy},
              {"budget", told.budget},
              {"tokens", told.tokens},
              {"rows", told.rows},
              {"blocks", told.blocks},
              {"smallest_block", told.smallest_block},
              {"largest_block", told.largest_block},
              {"dense_flops", told.dense_flops},
              {"gate_flops", told.gate_flops},
              {"selection_bytes", told.selection_bytes},
              {"scratch_bytes", told.scratch_bytes},
              {"costs", told.costs},
              {"forward", to_json(told.forward)},
              {"training", to_json(told.training)},
              {"backends", Json::array()}};
  for (const Explanation::Refusal& one : told.backends)
    out["backends"].push_back({{"name", one.backend}, {"takes_it", one.reason.empty()}, {"reason", one.reason}});
  return out;
}

}  // namespace

Action setup_explain(CLI::App& command) {
  struct Options {
    CallOptions call;
    std::string costs;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  options->call.declare(command);
  command.add_option("--cost", options->costs,
                     "costs of this machine, written by vmoba bench --fit --out; left out: those built in");
  command.add_flag("--json", options->json, json_help);
  command.footer("Example: vmoba explain --grid 21,30,52 --block 7,5,13 --policy threshold:0.25");
  return [options] {
    const Problem problem(options->call.problem());
    Execution execution;
    execution.backend = options->call.backend;
    execution.threads = thread_count(options->call.threads);
    const std::optional<CostModel> costs = read_costs(options->costs);
    const Explanation told = explain(problem, execution, costs ? &*costs : nullptr);
    if (options->json)
      print(to_json(told));
    else
      print(to_text(told));
    return told.backend.empty() ? exit_usage : exit_fine;
  };
}

}  // namespace vmoba::tools
