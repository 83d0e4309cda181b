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
#include "tools/bench/sheet.hpp"
#include "tools/bench/sweeps.hpp"
#include "tools/bench/targets.hpp"
#include "tools/parse.hpp"
#include "tools/process.hpp"
#include "tools/verb.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

std::vector<BenchRow> run_with_bar(const BenchCase& one, const std::string& label) {
  std::unique_ptr<Progress> bar;
  return run_case(one, [&](std::int64_t of, const std::string& line) {
    if (!bar) bar = std::make_unique<Progress>(label, of);
    bar->advance(1, line);
  });
}

ProblemOptions problem_of(const BenchCase& one, const SparseCase& sparse) {
  return {.grid = one.grid,
          .block = sparse.block,
          .heads = one.heads,
          .dim = one.dim,
          .dtype = one.dtype,
          .policy = sparse.policy};
}

// Must come first, while this process is a single thread.
Json measure_memory_of(const std::vector<ProblemOptions>& problems, const Sheet& sheet, const BenchOptions& options,
                       MemoryUse* last = nullptr) {
  Json out = Json::array();
  for (const ProblemOptions& problem : problems) {
    const MemoryUse use = measure_memory(problem, sheet.threads, options.backend);
    out.push_back(to_json(use, problem));
    sheet.say(line_of(use, problem));
    if (last) *last = use;
  }
  return out;
}

// Any problem of this dtype: which backend is the best.
ProblemOptions usual_call(DType dtype = DType::f32) { return {.grid = {4, 4, 4}, .dim = 128, .dtype = dtype}; }

Json measure_flex_of(const FlexRequest& request, const BenchOptions& options) {
  return options.no_flex ? Json{{"skipped", "switched off by --no-flex"}} : measure_flex(request, options.python);
}

int bench_cases(BenchOptions options) {
  const bool issue = options.suite == "issue";
  if (issue) apply_issue_suite(options);
  const std::vector<NamedCase> cases = cases_of(options);
  Sheet sheet(options, issue ? "issue" : "bench");

  // Memory of every sparse configuration, or of the suite's one.
  std::vector<ProblemOptions> problems;
  if (issue) problems = {issue_memory_problem()};
  for (const NamedCase& named : cases)
    for (const SparseCase& sparse : named.bench.sparse)
      if (!issue && options.memory) problems.push_back(problem_of(named.bench, sparse));
  MemoryUse last_use;
  const Json memory = measure_memory_of(problems, sheet, options, &last_use);

  const BenchCase& first = cases[0].bench;
  const Peak& peak = sheet.measure(problem_of(first, first.sparse.back()));
  at::set_num_threads(static_cast<int>(sheet.threads));
  Json out = sheet.head(), results = Json::array();
  std::vector<std::vector<BenchRow>> all;
  for (const NamedCase& named : cases) {
    all.push_back(run_with_bar(named.bench, named.bench.data));
    results.push_back(to_json(named, all.back(), peak.flops));
    sheet.say("\n" + title_of(named) + table_of(all.back(), peak.flops).text() + torch_line(all.back()));
  }
  const Json flex = measure_flex_of(flex_request(first, sheet.threads), options);
  sheet.say("\n" + flex_text(flex));
  out["memory"] = memory;
  out["cases"] = results;
  out["flex_attention"] = flex;
  if (issue) {
    const std::vector<Line> lines = promises(cases, all, last_use);
    out["promises"] = to_json(lines);
    sheet.say("\n" + table_of(lines).text());
  }
  return sheet.finish(out);
}

int bench_sweeps(const BenchOptions& options) {
  std::vector<NamedCase> cases = sweep_cases(options);
  // Another preset or the quick choice goes to a file of its own.
  std::string name = options.quick ? "sweeps-quick" : "sweeps";
  if (options.preset != BenchOptions{}.preset) name += "-" + options.preset;
  Sheet sheet(options, name);
  std::vector<ProblemOptions> problems;
  for (const NamedCase& named : cases)
    if (named.sweep == cases[0].sweep && named.bench.data == cases[0].bench.data)
      problems.push_back(problem_of(named.bench, named.bench.sparse.back()));
  const Json memory = measure_memory_of(problems, sheet, options);

  const Peak& peak = sheet.measure(usual_call());
  const Bandwidth bandwidth = measure_bandwidth(sheet.threads);
  sheet.say(line_of(bandwidth));
  at::set_num_threads(static_cast<int>(sheet.threads));
  Json out = sheet.head(), results = Json::array();
  std::vector<Hopeless> hopeless;
  SweepTable table;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    NamedCase& named = cases[i];
    for (const Hopeless& one : hopeless) named.bench.torch_left_out.push_back(one.call);
    const std::vector<BenchRow> rows =
        run_with_bar(named.bench, fmt::format("{}/{} {} {}", i + 1, cases.size(), named.sweep, named.bench.data));
    if (i == 0) hopeless = hopeless_of(rows, named.bench);
    results.push_back(to_json(named, rows, peak.flops));
    table.add(named, rows, peak.flops);
    if (i + 1 == cases.size() || cases[i + 1].sweep != named.sweep) sheet.say(table.take());
  }
  const Json flex = measure_flex_of(sweep_flex_request(options, sheet.threads), options);
  sheet.say("\n" + flex_text(flex));
  out["suite"] = "sweeps";
  out["quick"] = options.quick;
  out["bandwidth"] = to_json(bandwidth);
  out["memory"] = memory;
  out["torch_left_out"] = to_json(hopeless);
  out["cases"] = results;
  out["flex_attention"] = flex;
  const int code = sheet.finish(out);
  if (!options.plots) return code;
  return run_module({find_python(options.python), "-m", "vmoba.report.sweeps", sheet.file(".json")},
                    "vmoba bench --plots");
}

int bench_targets(const BenchOptions& options) {
  Sheet sheet(options, "targets");
  Targets targets;
  targets.only = split(options.only);
  targets.quick = options.quick;
  targets.threads = sheet.threads;
  targets.seed = static_cast<std::uint64_t>(options.seed);
  targets.backend = options.backend;
  const std::string backend(choose_backend(Problem(usual_call()), {.backend = options.backend}).name);
  targets.amx = backend == "cpu:sapphire";
  auto bar = std::make_unique<Progress>("targets", 8);  // the functions below
  targets.say = [&](const std::string& line) {
    if (bar) bar->advance(0, line);
  };
  memory_target(targets);
  targets.peak = sheet.measure(usual_call()).flops;
  bar->advance();
  at::set_num_threads(static_cast<int>(sheet.threads));
  for (auto* const measure : {dense_targets, sparse_targets, selection_targets, break_even_target, doubling_targets,
                              thread_targets, training_targets}) {
    measure(targets);
    bar->advance();
  }
  bar.reset();
  if (targets.lines.empty())
    throw_argument("--only", options.only, "is in no line of the table", "leave it out to see them all");
  sheet.say("\n" + table_of(targets.lines).text());
  Json out = sheet.head();
  out["backend"] = backend;
  out["quick"] = options.quick;
  out["targets"] = to_json(targets.lines);
  return sheet.finish(out);
}

int bench_fit(const BenchOptions& options) {
  const Sheet sheet(options, "costs");
  const std::string backend(choose_backend(Problem(usual_call()), {.backend = options.backend}).name);
  sheet.say(fmt::format("backend   {}, {} threads\n\n", backend, sheet.threads));
  at::set_num_threads(static_cast<int>(sheet.threads));
  std::unique_ptr<Progress> bar;
  const std::vector<Observation> seen =
      observe(options.backend, backend == "cpu:sapphire" ? DType::bf16 : DType::f32,
              static_cast<std::uint64_t>(options.seed), options.quick, [&](std::int64_t of, const std::string& line) {
                if (!bar) bar = std::make_unique<Progress>("fit", of);
                bar->advance(1, line);
              });
  bar.reset();
  const CostModel costs = fit_costs(seen, backend, sheet.threads);
  sheet.say(table_of(seen, costs, sheet.threads).text() + "\n" + table_of_errors(seen, costs, sheet.threads).text() +
            "\n" + to_text(costs));
  if (const std::string path = sheet.file(".txt"); !path.empty()) {
    io::write_file(path, to_text(costs));
    sheet.say(fmt::format("\n{} written; vmoba explain --cost {}\n", path, path));
  }
  if (!options.json) return exit_fine;
  Json out = sheet.head();
  out["format"] = "vmoba-fit-1";
  out["costs"] = to_json(costs);
  out["observations"] = to_json(seen, costs, sheet.threads);
  print(out);
  return exit_fine;
}

}  // namespace

Action setup_bench(CLI::App& command) {
  auto options = std::make_shared<BenchOptions>();
  declare(command, *options);
  return [options, &command] {
    check_bench(command, *options);
    if (options->fit) return bench_fit(*options);
    if (options->suite == "targets") return bench_targets(*options);
    if (options->suite != "sweeps") return bench_cases(*options);
    apply_sweeps_suite(*options, command.get_option("--data")->count() > 0,
                       command.get_option("--seconds")->count() > 0);
    return bench_sweeps(*options);
  };
}

}  // namespace vmoba::tools
