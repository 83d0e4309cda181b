// SPDX-License-Identifier: Apache-2.0
// Points of the sweeps, and what is told of them.
#include "tools/bench/sweeps.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "tools/bench/output.hpp"
#include "tools/parse.hpp"

namespace vmoba::tools {

namespace {

// Sizes that keep the standard choice at about six minutes on two cores with AVX2, and the quick one at seconds.
struct Sizes {
  std::string tokens, forward_tokens, other_tokens;  // both directions; forward alone; of other data than the first
  std::string densities;
  std::vector<std::int64_t> blocks;
  std::string dims, dtype_tokens;
  std::int64_t middle;  // tokens of the sweeps that are not over tokens
  std::int64_t heads;
  std::string dim;
};
const Sizes standard{.tokens = "1024,2048,4096,8192",
                     .forward_tokens = "16384",
                     .other_tokens = "1024,2048,4096",
                     .densities = "0.02,0.05,0.1,0.2,0.4,0.7,1",
                     .blocks = {7, 16, 32, 64, 128, 256, 512},
                     .dims = "64,128",
                     .dtype_tokens = "2048",
                     .middle = 4096,
                     .heads = 2,
                     .dim = "128"};
const Sizes small{.tokens = "256,512",
                  .forward_tokens = "1024",
                  .other_tokens = "256",
                  .densities = "0.1,0.4,1",
                  .blocks = {7, 32},
                  .dims = "32,64",
                  .dtype_tokens = "256",
                  .middle = 512,
                  .heads = 1,
                  .dim = "64"};
const Sizes& sizes_of(const BenchOptions& options) { return options.quick ? small : standard; }

// The 3D layer alone: the most blocks.
void keep_3d(std::vector<SparseCase>& sparse) {
  std::erase_if(sparse, [](const SparseCase& one) { return !one.label.starts_with("3D"); });
}

}  // namespace

void apply_sweeps_suite(BenchOptions& options, bool has_data, bool has_seconds) {
  if (!has_data) options.data = "smooth,random";
  if (!has_seconds) options.seconds = options.quick ? 0 : 3;
}

std::vector<NamedCase> sweep_cases(const BenchOptions& options) {
  const Sizes& sizes = sizes_of(options);
  BenchOptions middle = options;
  middle.tokens = std::to_string(sizes.middle);
  middle.heads = sizes.heads;
  middle.dims = sizes.dim;
  middle.dtypes = "f32";
  middle.direction = "both";
  std::vector<NamedCase> out;
  const auto add = [&](const std::string& sweep, const BenchOptions& changed, auto&& finish) {
    for (NamedCase& named : cases_of(changed)) {
      named.sweep = sweep;
      finish(named.bench);
      out.push_back(std::move(named));
    }
  };
  const auto as_it_is = [](const BenchCase&) {};
  const std::vector<std::string> kinds = split(options.data);

  BenchOptions o = middle;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    o.data = kinds[i];
    o.tokens = i == 0 ? sizes.tokens : sizes.other_tokens;
    add("tokens", o, as_it_is);
    if (i > 0) continue;
    BenchOptions largest = o;
    largest.tokens = sizes.forward_tokens;
    largest.direction = "forward";
    add("tokens", largest, as_it_is);
  }
  o = middle;
  o.density = sizes.densities;
  std::vector<NamedCase> own = cases_of(middle);  // with the preset's policy, in the order of those with densities
  add("density", o, [&, i = 0U](BenchCase& one) mutable {
    const SparseCase& last = own[i++].bench.sparse.back();
    keep_3d(one.sparse);
    one.sparse.push_back({last.label + " policy", last.block, last.policy});
  });
  o = middle;
  o.density = "0.2";
  const std::int64_t tokens = scale_to(preset(options.preset).grid, static_cast<double>(sizes.middle)).tokens();
  for (const std::int64_t blocks : sizes.blocks)
    o.blocks += fmt::format("{}run:{}", o.blocks.empty() ? "" : ";", (tokens + blocks - 1) / blocks);
  add("blocks", o, as_it_is);
  o = middle;
  o.tokens = sizes.dtype_tokens;
  o.dims = sizes.dims;
  o.dtypes = "f32,bf16,f16";
  o.density = "0.2";
  if (std::find(kinds.begin(), kinds.end(), "rendered") == kinds.end()) o.data += ",rendered";
  add("dtypes", o, [](BenchCase& one) { keep_3d(one.sparse); });
  // The first call of a process is slow: what is hopeless is judged by all rounds of the smallest case.
  out[0].bench.rounds.hopeless = std::numeric_limits<double>::infinity();
  return out;
}

std::vector<Hopeless> hopeless_of(const std::vector<BenchRow>& rows, const BenchCase& where) {
  std::vector<Hopeless> out;
  for (const BenchRow& one : rows)
    for (const BenchRow& other : rows) {
      if (one.contender != "torch-sdpa" || other.contender != one.contender || other.direction != one.direction)
        continue;
      const double times = one.times.median() / other.times.median();
      if (times > Rounds{}.hopeless) out.push_back({{one.dtype, one.direction}, times, where.grid.tokens()});
    }
  return out;
}

Json to_json(const std::vector<Hopeless>& hopeless) {
  Json out = Json::array();
  for (const Hopeless& one : hopeless)
    out.push_back({{"dtype", one.call.dtype},
                   {"direction", one.call.direction},
                   {"times_the_other_dtype", one.times},
                   {"tokens", one.tokens}});
  return out;
}

void SweepTable::add(const NamedCase& named, const std::vector<BenchRow>& rows, double peak) {
  sweep_ = named.sweep;
  const BenchCase& one = named.bench;
  for (const BenchRow& row : rows) {
    if (row.contender == "torch-sdpa" || row.direction == "select") continue;
    std::vector<std::string> cells{one.data, std::to_string(one.grid.tokens()), std::to_string(one.dim)};
    for (std::string& cell : cells_of(row, peak)) cells.push_back(std::move(cell));
    rows_.push_back(std::move(cells));
  }
}

std::string SweepTable::take() {
  std::vector<std::string> head{"data", "tokens", "D"};
  for (const std::string& one : row_head()) head.push_back(one);
  Table table(head);
  for (std::vector<std::string>& row : rows_) table.add(std::move(row));
  rows_.clear();
  return "\nover " + sweep_ + "\n" + table.text();
}

FlexRequest sweep_flex_request(const BenchOptions& options, std::int64_t threads) {
  const Sizes& sizes = sizes_of(options);
  return {.grid = {1, 1, sizes.middle},
          .heads = sizes.heads,
          .dim = std::stoll(sizes.dim),
          .threads = threads,
          .block = ::vmoba::Run{128},
          .tau = 0.25,
          .densities = {0.05, 0.1, 0.2, 0.4, 1}};
}

}  // namespace vmoba::tools
