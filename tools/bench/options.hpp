// SPDX-License-Identifier: Apache-2.0
// What vmoba bench is asked for on the command line, and the configurations that follow from it.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

#include "tools/bench/run.hpp"

namespace vmoba::tools {

struct BenchOptions {
  std::string suite, only, preset = "paper-93x576x1024", tokens = "4096", dims = "128", dtypes = "f32",
                           data = "random,smooth", direction = "both", blocks, density, tau, backend, python, out;
  std::int64_t heads = 4, threads = 0, repeats = 9, seed = 1;
  double seconds = 20;
  bool json = false, no_flex = false, memory = false, quick = false, fit = false, plots = false;
};

// The parts of a list, empty ones left out.
std::vector<std::string> split(const std::string& text, char separator = ',');

void declare(CLI::App& command, BenchOptions& options);
// Throws Error (kind argument) for values, and for options that have no effect together.
void check_bench(const CLI::App& command, const BenchOptions& options);

struct NamedCase {
  std::string preset;
  std::string sweep{};  // with --suite sweeps: what it is a point of
  BenchCase bench{};
};
// Presets x tokens x dim x dtype x data, each with its sparse cases. Refuses what no backend here takes.
std::vector<NamedCase> cases_of(const BenchOptions& options);

// Blocks of the preset shrunk with the grid, so that their number stays about what it is at full size.
Block shrink(const Block& block, const Grid& from, const Grid& to);

}  // namespace vmoba::tools
