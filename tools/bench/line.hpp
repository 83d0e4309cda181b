// SPDX-License-Identifier: Apache-2.0
// Lines of a suite: a ratio of one run beside what it should be.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/output.hpp"

namespace vmoba::tools {

struct Line {
  std::string what;
  double value = 0;
  char rule = '>';                 // '>': at least the target, '<': at most
  std::optional<double> target{};  // none: told for comparison only
  double spread = 0;               // interquartile range of the rounds over their median; 0: one measurement
  std::string note{};              // what stands behind it
  bool reached() const { return !target || (rule == '>' ? value >= *target : value <= *target); }
};

Json to_json(const std::vector<Line>& lines);
Table table_of(const std::vector<Line>& lines);

}  // namespace vmoba::tools
