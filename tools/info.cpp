// SPDX-License-Identifier: Apache-2.0
// vmoba info: what runs here, and what does not and why.
#include <fmt/format.h>

#include <memory>

#include "tools/help.hpp"
#include "tools/output.hpp"
#include "tools/parse.hpp"
#include "tools/verb.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/preset.hpp"

namespace vmoba::tools {

Action setup_info(CLI::App& command) {
  auto json = std::make_shared<bool>(false);
  command.add_flag("--json", *json, json_help);
  return [json] {
    const Machine here = machine();
    if (*json) {
      Json out = {{"machine", to_json(here)}, {"backends", Json::array()}, {"presets", Json::array()}};
      for (const Backend& backend : backends()) {
        const std::string reason = backend.unavailable();
        out["backends"].push_back({{"name", backend.name},
                                   {"description", backend.description},
                                   {"available", reason.empty()},
                                   {"reason", reason}});
      }
      for (const Preset& row : presets()) {
        Json cycle = Json::array();
        for (const LayerPolicy& layer : row.cycle)
          cycle.push_back({{"block", to_text(layer.block)}, {"policy", describe(layer.policy)}});
        out["presets"].push_back({{"name", row.name},
                                  {"grid", {row.grid.t, row.grid.y, row.grid.x}},
                                  {"tokens", row.grid.tokens()},
                                  {"cycle", cycle},
                                  {"source", row.source}});
      }
      print(out);
      return exit_fine;
    }
    std::string features;
    for (const std::string& feature : here.features) features += (features.empty() ? "" : " ") + feature;
    print(fmt::format("vmoba     {} ({})\n", here.version, here.commit));
    print(fmt::format("torch     {}\n", here.torch.empty() ? "not built in" : here.torch));
    print(fmt::format("cpu       {}, {} cores\n", here.cpu, here.cores));
    print(fmt::format("features  {}\n", features.empty() ? "none that matter here" : hanging(features, 10)));
    print(fmt::format("memory    {}, {} available\n", bytes_text(static_cast<double>(here.memory)),
                      bytes_text(static_cast<double>(here.memory_available))));
    print(fmt::format("system    {}, compiler {}\n\n", here.system, here.compiler));
    Table table({"backend", "runs here", "what it is, or why not"});
    for (const Backend& backend : backends()) {
      const std::string reason = backend.unavailable();
      table.add({std::string(backend.name), reason.empty() ? "yes" : "no",
                 reason.empty() ? std::string(backend.description) : reason});
    }
    print(table);
    print("\n");
    Table rows({"preset", "grid", "1D", "2D", "3D", "policy of 1D"});  // 80 columns; explain says the tokens
    for (const Preset& row : presets())
      rows.add({std::string(row.name), to_text(row.grid), spelled(row.cycle[0].block), spelled(row.cycle[1].block),
                spelled(row.cycle[2].block), spelled(row.cycle[0].policy)});
    print(rows);
    return exit_fine;
  };
}

}  // namespace vmoba::tools
