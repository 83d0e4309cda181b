// SPDX-License-Identifier: Apache-2.0
// Tables and JSON of a fit.
#include "tools/bench/fit_output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tools/parse.hpp"

namespace vmoba::tools {

namespace {

double relative_error(const Observation& one, const CostModel& costs, std::int64_t threads) {
  return predicted(costs, one, threads) / one.seconds - 1;
}

}  // namespace

Table table_of(const std::vector<Observation>& seen, const CostModel& costs, std::int64_t threads) {
  Table table({"part", "tokens", "D", "block", "N", "density", "policy", "measured", "predicted", "error", ""});
  for (const Observation& one : seen) {
    const ProblemOptions& o = one.problem.options();
    const bool dense = std::holds_alternative<Dense>(o.policy);
    table.add({name(one.part), std::to_string(o.grid.tokens()), std::to_string(o.dim), dense ? "" : to_text(o.block),
               dense ? "" : std::to_string(one.problem.sample(0).partition->blocks()),
               fmt::format("{:.3f}", one.density), one.part == Part::select ? describe(o.policy) : one.by,
               seconds_text(one.seconds), seconds_text(predicted(costs, one, threads)),
               fmt::format("{:+.1f} %", 100 * relative_error(one, costs, threads)), one.held_out ? "held out" : ""});
  }
  return table;
}

Table table_of_errors(const std::vector<Observation>& seen, const CostModel& costs, std::int64_t threads) {
  Table table({"part", "fitted", "mean error", "worst", "held out", "mean error", "worst"});
  for (const Part part :
       {Part::dense_forward, Part::dense_backward, Part::sparse_forward, Part::sparse_backward, Part::select}) {
    std::vector<std::string> row{name(part)};
    for (const bool held_out : {false, true}) {
      double sum = 0, worst = 0;
      std::int64_t count = 0;
      for (const Observation& one : seen) {
        if (one.part != part || one.held_out != held_out) continue;
        const double error = std::abs(relative_error(one, costs, threads));
        sum += error, worst = std::max(worst, error), ++count;
      }
      row.push_back(std::to_string(count));
      row.push_back(fmt::format("{:.1f} %", 100 * sum / static_cast<double>(std::max<std::int64_t>(count, 1))));
      row.push_back(fmt::format("{:.1f} %", 100 * worst));
    }
    table.add(row);
  }
  return table;
}

Json to_json(const CostModel& costs) {
  Json out = {{"backend", costs.backend}};
  visit_coefficients(costs, [&](const std::string& coefficient, double value) { out[coefficient] = value; });
  return out;
}

Json to_json(const std::vector<Observation>& seen, const CostModel& costs, std::int64_t threads) {
  Json out = Json::array();
  for (const Observation& one : seen) {
    const ProblemOptions& o = one.problem.options();
    Json row = {{"part", name(one.part)},
                {"grid", {o.grid.t, o.grid.y, o.grid.x}},
                {"heads", o.heads},
                {"dim", o.dim},
                {"block", to_text(o.block)},
                {"policy", describe(o.policy)},
                {"density", one.density},
                {"seconds", one.seconds},
                {"predicted_seconds", predicted(costs, one, threads)},
                {"held_out", one.held_out}};
    if (!one.by.empty()) row["by"] = one.by;
    out.push_back(row);
  }
  return out;
}

}  // namespace vmoba::tools
