// SPDX-License-Identifier: Apache-2.0
// FlexAttention beside VMoBA: compiled and timed by the Python package, in a process of its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/bench/run.hpp"
#include "tools/output.hpp"

namespace vmoba::tools {

// The selection that VMoBA makes, query by query, with this block and tau; and selections of whole tiles of 128 queries
// and keys with these densities, the shape that FlexAttention is made for.
struct FlexRequest {
  Grid grid;
  std::int64_t heads = 4, dim = 128, threads = 1;
  Block block;
  double tau = 0.25;
  std::vector<double> densities{0.2};
};
FlexRequest flex_request(const BenchCase& one, std::int64_t threads);  // the last of its sparse cases

// What `python -m vmoba._flex` tells (compiling takes most of a minute), or {"skipped": reason}.
Json measure_flex(const FlexRequest& request, const std::string& python);
std::string flex_text(const Json& flex);

}  // namespace vmoba::tools
