// SPDX-License-Identifier: Apache-2.0
// FlexAttention beside VMoBA: compiled and timed by the Python package, in a process of its own.
#pragma once

#include <cstdint>
#include <string>

#include "tools/bench/run.hpp"
#include "tools/output.hpp"

namespace vmoba::tools {

// What `python -m vmoba._flex` tells about the case and the last of its sparse cases (compiling takes most of a
// minute), or {"skipped": reason}.
Json measure_flex(const BenchCase& one, std::int64_t threads, const std::string& python);
std::string flex_line(const Json& flex);

}  // namespace vmoba::tools
