// SPDX-License-Identifier: Apache-2.0
// vmoba explain: what one attention call would do, without doing it.
#include "tools/parse.hpp"

#include <memory>

#include "tools/output.hpp"
#include "tools/verb.hpp"
#include "vmoba/backend.hpp"

namespace vmoba::tools {

namespace {

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
              {"backends", Json::array()}};
  for (const Explanation::Refusal& one : told.backends)
    out["backends"].push_back({{"name", one.backend}, {"takes_it", one.reason.empty()}, {"reason", one.reason}});
  return out;
}

}  // namespace

Run setup_explain(CLI::App& command) {
  struct Options {
    CallOptions call;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  options->call.declare(command);
  command.add_flag("--json", options->json, "for machines");
  command.footer("Example: vmoba explain --grid 21,30,52 --block 7,5,13 --policy threshold:0.25");
  return [options] {
    const Problem problem(options->call.problem());
    Execution execution;
    execution.backend = options->call.backend;
    execution.threads = thread_count(options->call.threads);
    const Explanation told = explain(problem, execution);
    if (options->json)
      print(to_json(told));
    else
      print(to_text(told));
    return told.backend.empty() ? exit_usage : exit_fine;
  };
}

}  // namespace vmoba::tools
