// SPDX-License-Identifier: Apache-2.0
// vmoba bench: this build beside torch SDPA and FlexAttention, every ratio measured in one run.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "io/file.hpp"
#include "tools/bench/fit.hpp"
#include "tools/bench/fit_output.hpp"
#include "tools/bench/flex.hpp"
#include "tools/bench/options.hpp"
#include "tools/bench/output.hpp"
#include "tools/bench/promises.hpp"
#include "tools/bench/targets.hpp"
#include "tools/parse.hpp"
#include "tools/verb.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

// Memory of every sparse configuration, or of the suite's one.
std::vector<ProblemOptions> memory_problems(const BenchOptions& options, const std::vector<NamedCase>& cases) {
  if (!options.suite.empty()) return {issue_memory_problem()};
  std::vector<ProblemOptions> out;
  if (!options.memory) return out;
  for (const NamedCase& named : cases)
    for (const SparseCase& sparse : named.bench.sparse)
      out.push_back({.grid = named.bench.grid,
                     .block = sparse.block,
                     .heads = named.bench.heads,
                     .dim = named.bench.dim,
                     .dtype = named.bench.dtype,
                     .policy = sparse.policy});
  return out;
}

int bench_cases(BenchOptions options) {
  const bool issue = options.suite == "issue";
  if (issue) apply_issue_suite(options);
  const std::int64_t threads = thread_count(options.threads);
  const std::vector<NamedCase> cases = cases_of(options);
  const auto say = [&](const std::string& text) {
    if (!options.json) print(text);
  };
  const Machine here = machine();
  say(one_line(here) + "\n");

  // First, while this process is a single thread.
  Json memory = Json::array();
  MemoryUse last_use;
  for (const ProblemOptions& problem : memory_problems(options, cases)) {
    last_use = measure_memory(problem, threads, options.backend);
    memory.push_back(to_json(last_use, problem));
    say(line_of(last_use, problem));
  }
  const std::vector<Peak> peaks = measure_peaks(threads);
  const BenchCase& first = cases[0].bench;
  const Peak& peak = peak_of(
      peaks, choose_backend(Problem({.grid = first.grid, .heads = first.heads, .dim = first.dim, .dtype = first.dtype}),
                            {.backend = options.backend})
                 .name);
  say(fmt::format("threads   {}\n", threads) + line_of(peaks, peak));

  at::set_num_threads(static_cast<int>(threads));
  Json results = Json::array();
  std::vector<std::vector<BenchRow>> all;
  for (const NamedCase& named : cases) {
    std::unique_ptr<Progress> bar;
    all.push_back(run_case(named.bench, [&](std::int64_t of, const std::string& line) {
      if (!bar) bar = std::make_unique<Progress>(named.bench.data, of);
      bar->advance(1, line);
    }));
    bar.reset();
    results.push_back(to_json(named, all.back(), peak.flops));
    say("\n" + title_of(named) + table_of(all.back(), peak.flops).text() + torch_line(all.back()));
  }
  const Json flex =
      options.no_flex ? Json{{"skipped", "switched off by --no-flex"}} : measure_flex(first, threads, options.python);
  say("\n" + flex_line(flex));
  Json out = {{"format", "vmoba-bench-1"}, {"when", now()},    {"machine", to_json(here)}, {"threads", threads},
              {"peaks", to_json(peaks)},   {"memory", memory}, {"cases", results},         {"flex_attention", flex}};
  if (issue) {
    const std::vector<Line> lines = promises(cases, all, last_use);
    out["promises"] = to_json(lines);
    say("\n" + table_of(lines).text());
  }
  if (!options.out.empty()) {
    io::write_file(options.out, out.dump(1) + "\n");
    say(fmt::format("\n{} written\n", options.out));
  }
  if (options.json) print(out);
  return exit_fine;
}

int bench_targets(const BenchOptions& options) {
  const std::int64_t threads = thread_count(options.threads);
  const auto say = [&](const std::string& text) {
    if (!options.json) print(text);
  };
  const Machine here = machine();
  say(one_line(here) + "\n");
  Targets targets;
  for (std::size_t begin = 0; begin < options.only.size();) {
    const std::size_t end = std::min(options.only.find(',', begin), options.only.size());
    if (end > begin) targets.only.push_back(options.only.substr(begin, end - begin));
    begin = end + 1;
  }
  targets.quick = options.quick;
  targets.threads = threads;
  targets.seed = static_cast<std::uint64_t>(options.seed);
  targets.backend = options.backend;
  const std::string backend(
      choose_backend(Problem({.grid = {4, 4, 4}, .dim = 128}), {.backend = options.backend}).name);
  targets.amx = backend == "cpu:sapphire";
  auto bar = std::make_unique<Progress>("targets", 8);  // the functions below
  targets.say = [&](const std::string& line) {
    if (bar) bar->advance(0, line);
  };
  memory_target(targets);
  const std::vector<Peak> peaks = measure_peaks(threads);
  const Peak& peak = peak_of(peaks, backend);
  targets.peak = peak.flops;
  bar->advance();
  say(fmt::format("backend   {}, {} threads\n", backend, threads) + line_of(peaks, peak));
  at::set_num_threads(static_cast<int>(threads));
  for (auto* const measure : {dense_targets, sparse_targets, selection_targets, break_even_target, doubling_targets,
                              thread_targets, training_targets}) {
    measure(targets);
    bar->advance();
  }
  bar.reset();
  if (targets.lines.empty())
    throw_argument("--only", options.only, "is in no line of the table", "leave it out to see them all");
  say("\n" + table_of(targets.lines).text());
  const Json out = {{"format", "vmoba-bench-1"}, {"when", now()},
                    {"machine", to_json(here)},  {"backend", backend},
                    {"threads", threads},        {"peaks", to_json(peaks)},
                    {"quick", options.quick},    {"targets", to_json(targets.lines)}};
  if (!options.out.empty()) {
    io::write_file(options.out, out.dump(1) + "\n");
    say(fmt::format("\n{} written\n", options.out));
  }
  if (options.json) print(out);
  return exit_fine;
}

int bench_fit(const BenchOptions& options) {
  const std::int64_t threads = thread_count(options.threads);
  const auto say = [&](const std::string& text) {
    if (!options.json) print(text);
  };
  const Machine here = machine();
  const std::string backend(
      choose_backend(Problem({.grid = {4, 4, 4}, .dim = 128}), {.backend = options.backend}).name);
  say(one_line(here) + fmt::format("\nbackend   {}, {} threads\n\n", backend, threads));
  at::set_num_threads(static_cast<int>(threads));
  std::unique_ptr<Progress> bar;
  const std::vector<Observation> seen =
      observe(options.backend, backend == "cpu:sapphire" ? DType::bf16 : DType::f32,
              static_cast<std::uint64_t>(options.seed), options.quick, [&](std::int64_t of, const std::string& line) {
                if (!bar) bar = std::make_unique<Progress>("fit", of);
                bar->advance(1, line);
              });
  bar.reset();
  const CostModel costs = fit_costs(seen, backend, threads);
  say(table_of(seen, costs, threads).text() + "\n" + table_of_errors(seen, costs, threads).text() + "\n" +
      to_text(costs));
  if (!options.out.empty()) {
    io::write_file(options.out, to_text(costs));
    say(fmt::format("\n{} written; vmoba explain --cost {}\n", options.out, options.out));
  }
  if (options.json)
    print(Json{{"format", "vmoba-fit-1"},
               {"when", now()},
               {"machine", to_json(here)},
               {"threads", threads},
               {"costs", to_json(costs)},
               {"observations", to_json(seen, costs, threads)}});
  return exit_fine;
}

}  // namespace

Run setup_bench(CLI::App& command) {
  auto options = std::make_shared<BenchOptions>();
  declare(command, *options);
  return [options, &command] {
    check_bench(command, *options);
    if (options->fit) return bench_fit(*options);
    return options->suite == "targets" ? bench_targets(*options) : bench_cases(*options);
  };
}

}  // namespace vmoba::tools
