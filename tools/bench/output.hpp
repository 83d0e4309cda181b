// SPDX-License-Identifier: Apache-2.0
// Results of vmoba bench as tables for people and as the JSON that bench/README.md describes.
#pragma once

#include <string>
#include <vector>

#include "tools/bench/line.hpp"
#include "tools/bench/memory.hpp"
#include "tools/bench/options.hpp"
#include "tools/bench/peak.hpp"

namespace vmoba::tools {

Json to_json(const NamedCase& named, const std::vector<BenchRow>& rows, double peak);
std::string title_of(const NamedCase& named);
Table table_of(const std::vector<BenchRow>& rows, double peak);
std::vector<std::string> row_head();  // the columns of a row, and its cells
std::vector<std::string> cells_of(const BenchRow& row, double peak);
// "best of torch: forward f32, forward+backward f32"; "" when torch was not measured.
std::string torch_line(const std::vector<BenchRow>& rows);

Json to_json(const MemoryUse& use, const ProblemOptions& options);
std::string line_of(const MemoryUse& use, const ProblemOptions& options);

Json to_json(const std::vector<Peak>& peaks);
std::string line_of(const std::vector<Peak>& peaks, const Peak& used);
Json to_json(const Steadiness& steadiness);
std::string line_of(const Steadiness& steadiness);
Json to_json(const Bandwidth& bandwidth);
std::string line_of(const Bandwidth& bandwidth);

}  // namespace vmoba::tools
