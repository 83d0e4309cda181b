// SPDX-License-Identifier: Apache-2.0
// --suite sweeps: one shape is the middle; tokens, density, number of blocks, dtype and head dim are varied around it.
#pragma once

#include <string>
#include <vector>

#include "tools/bench/flex.hpp"
#include "tools/bench/options.hpp"
#include "tools/output.hpp"

namespace vmoba::tools {

// What the suite takes where --data and --seconds are not given.
void apply_sweeps_suite(BenchOptions& options, bool has_data, bool has_seconds);
// The points of all sweeps, those of one sweep behind each other: "tokens" first and from the fewest, then "density",
// "blocks", "dtypes". The first kind of data is swept over all sizes, the others over the smaller ones; "dtypes" is on
// rendered clips too. Takes preset, data, seconds, repeats, backend, seed and quick from options.
std::vector<NamedCase> sweep_cases(const BenchOptions& options);

// A dtype of torch's that took over four times the other's time where both were measured: in larger shapes it would take
// minutes and is never the better one, so it is left out of them.
struct Hopeless {
  TorchCall call;
  double times = 0;  // its time over the other dtype's
  std::int64_t tokens = 0;
};
std::vector<Hopeless> hopeless_of(const std::vector<BenchRow>& rows, const BenchCase& where);
Json to_json(const std::vector<Hopeless>& hopeless);

// Our rows of a sweep, a line each.
class SweepTable {
 public:
  void add(const NamedCase& named, const std::vector<BenchRow>& rows, double peak);
  std::string take();  // title and text of what was added since the last take

 private:
  std::string sweep_;
  std::vector<std::vector<std::string>> rows_;
};

// Tiles of 128 keys at the middle shape.
FlexRequest sweep_flex_request(const BenchOptions& options, std::int64_t threads);

}  // namespace vmoba::tools
