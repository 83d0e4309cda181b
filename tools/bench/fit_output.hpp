// SPDX-License-Identifier: Apache-2.0
// A fitted cost model beside what it was fitted on.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/bench/fit.hpp"
#include "tools/output.hpp"

namespace vmoba::tools {

Table table_of(const std::vector<Observation>& seen, const CostModel& costs, std::int64_t threads);
// Mean and worst relative error by part, of what was fitted and of what was held out.
Table table_of_errors(const std::vector<Observation>& seen, const CostModel& costs, std::int64_t threads);
Json to_json(const CostModel& costs);
Json to_json(const std::vector<Observation>& seen, const CostModel& costs, std::int64_t threads);

}  // namespace vmoba::tools
