// SPDX-License-Identifier: Apache-2.0
// What every suite begins and ends with: the machine, its peaks, the JSON and where it goes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/bench/options.hpp"
#include "tools/bench/peak.hpp"
#include "tools/output.hpp"
#include "vmoba/problem.hpp"

namespace vmoba::tools {

class Sheet {
 public:
  // what ends the name of a file of results: "issue", "sweeps". Prints the line of the machine.
  Sheet(const BenchOptions& options, std::string what);

  void say(const std::string& text) const;  // to people; nothing with --json
  // Measures the multiply-add peaks (this starts threads) and how steady a core is, prints both, and returns the peak of the
  // backend that takes the call.
  const Peak& measure(const ProblemOptions& call);
  // format, when, machine, threads and, once measured, peaks, peak_tier (the one that shares are of) and steadiness.
  Json head() const;
  // Writes and prints; an exit code.
  int finish(const Json& results) const;
  // Where --out says: the file; a folder (one that is there, or a name ending in /, which is made) gets
  // MACHINE-COMMIT-what and the ending. "" without --out.
  std::string file(std::string_view ending) const;

  const Machine here;
  const std::int64_t threads;

 private:
  const BenchOptions& options_;
  const std::string what_;
  std::vector<Peak> peaks_;
  Steadiness steadiness_;
  std::string tier_;
};

// "amd-epyc-2-cores-1f3a": processor, cores, and four hex digits over its features and whole GiB of memory as well.
std::string name_of(const Machine& machine);

std::string now();  // UTC, "2026-01-31T12:00:00Z"

}  // namespace vmoba::tools
