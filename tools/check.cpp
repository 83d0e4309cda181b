// SPDX-License-Identifier: Apache-2.0
// vmoba check: every backend that runs here against the reference, over ragged problems, judged as in the tests.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "check/compare.hpp"
#include "check/problems.hpp"
#include "check/selections.hpp"
#include "tools/output.hpp"
#include "tools/parse.hpp"
#include "tools/verb.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

// Errors of one result over all problems of a dtype, beside those of the naive computation in the same dtype.
struct Quantity {
  std::string name;
  double factor;                                        // of the naive computation's error that is allowed
  double l2 = 0, naive_l2 = 0, row = 0, naive_row = 0;  // worst over problems
  double used = 0;                                      // largest share of a problem's budget
  std::int64_t special = 0, failures = 0;
};

struct Verdict {
  std::string backend, dtype;
  std::vector<Quantity> quantities;
  std::int64_t problems = 0, refused = 0;
  std::int64_t pairs = 0, in_band = 0, wrong = 0;  // of selections
  std::int64_t unstable = 0;                       // problems whose bits depend on the number of threads
  std::vector<std::string> messages;               // what failed, with the problem in words
  bool passed() const { return messages.empty() && problems > 0; }
};

// Shapes around every edge that kernels have, then random ones.
std::vector<ProblemOptions> problems(DType dtype, std::int64_t random, std::int64_t axis, std::uint64_t seed) {
  const auto with = [&](Grid grid, Block block, std::int64_t heads, std::int64_t kv_heads, std::int64_t dim,
                        Policy policy) {
    return ProblemOptions{.grid = grid,
                          .block = block,
                          .heads = heads,
                          .kv_heads = kv_heads,
                          .dim = dim,
                          .dtype = dtype,
                          .policy = policy};
  };
  std::vector<ProblemOptions> out{
      with({1, 1, 1}, {}, 1, 1, 8, Threshold{}),
      with({5, 7, 9}, {2, full, full}, 2, 2, 64, Threshold{}),
      with({5, 7, 9}, {full, 3, 4}, 2, 1, 128, Threshold{.tau = 0.4, .scope = Scope::query}),
      with({4, 9, 8}, {3, 4, 3}, 3, 3, 24, TopK{3}),
      with({3, 6, 11}, ::vmoba::Run{37}, 2, 2, 72, TopK{.k = 2, .scope = Scope::head}),
      with({6, 5, 7}, {2, 2, 3}, 2, 2, 256,
           Threshold{.tau = 0.3, .scope = Scope::block, .min_blocks = 2, .max_blocks = 4}),
      with({4, 4, 16}, {full, full, 1}, 2, 2, 40, Threshold{.scope = Scope::all}),
      with({4, 8, 8}, {}, 2, 2, 128, Dense{}),
  };
  out[2].text = {.count = 5, .at = Text::At::front};
  out[3].text = {.count = 7, .at = Text::At::rear, .valid = {4}};
  test::Rng rng(seed);
  const test::Limits limits{.axis = axis, .dim_steps = 16, .half = false, .dense = true};
  for (std::int64_t i = 0; i < random; ++i) {
    ProblemOptions one = test::random_options(rng, limits);
    one.dtype = dtype;
    out.push_back(one);
  }
  return out;
}

void compare(const ProblemOptions& options, std::uint64_t seed, ThreadPool& pool, Verdict& verdict) {
  const Problem problem(options);
  const std::string words = test::words(problem);
  const Execution execution = pool.execution(verdict.backend);
  test::Tensors tensors =
      test::Tensors::random(problem, seed, seed % 2 ? test::Layout::padded : test::Layout::contiguous);
  const Selection selection = select(problem, tensors.q, tensors.k, execution);
  const test::SelectionDifference picked = test::selection_difference(problem, tensors.q, tensors.k, selection);
  verdict.pairs += picked.pairs;
  verdict.in_band += picked.in_band;
  verdict.wrong += picked.wrong;
  if (const std::string said = test::check_selection(problem, tensors.q, tensors.k, selection); !said.empty())
    verdict.messages.push_back("select: " + said + " (" + words + ")");

  const Selection* given = std::holds_alternative<Dense>(problem.policy()) ? nullptr : &selection;
  test::run(problem, given, tensors, execution);
  const std::vector<test::Verdict> judged = test::judge(tensors, test::Standard(problem, given, tensors));
  if (verdict.quantities.empty())
    for (const test::Verdict& one : judged) verdict.quantities.push_back({.name = one.of, .factor = one.factor});
  for (std::size_t i = 0; i < judged.size(); ++i) {
    const test::Verdict& one = judged[i];
    Quantity& quantity = verdict.quantities[i];
    quantity.l2 = std::max(quantity.l2, one.ours.relative_l2);
    quantity.naive_l2 = std::max(quantity.naive_l2, one.naive.relative_l2);
    quantity.row = std::max(quantity.row, one.ours.worst_row);
    quantity.naive_row = std::max(quantity.naive_row, one.naive.worst_row);
    quantity.used = std::max(quantity.used, one.used());
    quantity.special += one.ours.special;
    if (!one.passed()) {
      ++quantity.failures;
      verdict.messages.push_back(test::words(one) + "(" + words + ")");
    }
  }

  // The same bits from any number of threads.
  test::Tensors alone = tensors;
  const Selection chosen_alone = select(problem, alone.q, alone.k, {.backend = verdict.backend});
  test::run(problem, given, alone, {.backend = verdict.backend});
  bool same = chosen_alone == selection;
  for (const test::Verdict& one : judged) same = same && (alone.*one.tensor).same_bits(tensors.*one.tensor);
  if (!same) {
    ++verdict.unstable;
    verdict.messages.push_back(fmt::format("bits differ between 1 and {} threads ({})", pool.threads(), words));
  }
  ++verdict.problems;
}

Json to_json(const Verdict& verdict) {
  Json out = {{"backend", verdict.backend},
              {"dtype", verdict.dtype},
              {"passed", verdict.passed()},
              {"problems", verdict.problems},
              {"refused", verdict.refused},
              {"selection", {{"pairs", verdict.pairs}, {"in_tie_band", verdict.in_band}, {"wrong", verdict.wrong}}},
              {"thread_dependent", verdict.unstable},
              {"errors", Json::array()},
              {"messages", verdict.messages}};
  for (const Quantity& one : verdict.quantities)
    out["errors"].push_back({{"of", one.name},
                             {"relative_l2", one.l2},
                             {"naive_relative_l2", one.naive_l2},
                             {"worst_row", one.row},
                             {"naive_worst_row", one.naive_row},
                             {"budget_factor", one.factor},
                             {"budget_used", one.used},
                             {"special_values_differ", one.special},
                             {"failures", one.failures}});
  return out;
}

}  // namespace

Action setup_check(CLI::App& command) {
  struct Options {
    std::string backend, dtypes = "f32,bf16,f16";
    bool full = false, quick = false, json = false;
    std::int64_t threads = 5, seed = 1;
  };
  auto options = std::make_shared<Options>();
  command.add_option("--backend", options->backend, "one backend by name; left out: every one that runs here");
  command.add_option("--dtype", options->dtypes, "dtypes apart by commas")->capture_default_str();
  CLI::Option* quick =
      command.add_flag("--quick", options->quick, "the fixed problems and 4 random ones a dtype; left out: 16");
  command.add_flag("--full", options->full, "60 random problems a dtype, larger ones")->excludes(quick);
  command.add_option("--threads", options->threads, "threads whose results must equal those of one")
      ->capture_default_str();
  command.add_option("--seed", options->seed, "seed of the random problems")->capture_default_str();
  command.add_flag("--json", options->json, json_help);
  command.footer(
      "A result fails where it errs, over all its elements or in its worst row, by more than its budget: 2x (out, lse) "
      "or 3x (gradients) what the naive computation errs by in the same dtype, which is its error as measured, or as "
      "expected of fp32 (few rows are luck), or that of exact results stored in the dtype, whichever is largest.");
  return [options] {
    std::vector<std::string> names;
    if (!options->backend.empty()) {
      // Resolves "cpu" and refuses what does not exist or run here, with the reason.
      const Problem probe({.grid = {1, 1, 1}, .dim = 8});
      names.push_back(std::string(choose_backend(probe, {.backend = options->backend}).name));
    } else {
      for (const Backend& backend : backends())
        if (std::string(backend.unavailable()).empty()) names.push_back(std::string(backend.name));
    }
    std::vector<DType> dtypes;
    for (std::size_t begin = 0; begin <= options->dtypes.size();) {
      const std::size_t end = std::min(options->dtypes.find(',', begin), options->dtypes.size());
      dtypes.push_back(parse_dtype(options->dtypes.substr(begin, end - begin), "--dtype"));
      begin = end + 1;
    }
    ThreadPool pool(thread_count(options->threads));
    const std::int64_t random = options->full ? 60 : options->quick ? 4 : 16;
    std::vector<Verdict> verdicts;
    {
      Progress bar("check", static_cast<std::int64_t>(names.size() * dtypes.size()) * (random + 8));
      for (const std::string& name : names)
        for (const DType dtype : dtypes) {
          Verdict& verdict = verdicts.emplace_back();
          verdict.backend = name;
          verdict.dtype = vmoba::name(dtype);
          std::uint64_t seed = static_cast<std::uint64_t>(options->seed);
          for (const ProblemOptions& one : problems(dtype, random, options->full ? 9 : 5, seed)) {
            ++seed;
            bool taken = true;
            for (const Backend& backend : backends())
              if (backend.name == name) taken = backend.why_not(Problem(one)).empty();
            if (taken)
              compare(one, seed, pool, verdict);
            else
              ++verdict.refused;
            bar.advance(1, name);
          }
        }
    }
    bool passed = true;
    for (const Verdict& verdict : verdicts) passed = passed && verdict.passed();
    if (options->json) {
      Json out = {{"passed", passed},
                  {"machine", to_json(machine())},
                  {"threads", options->threads},
                  {"verdicts", Json::array()}};
      for (const Verdict& verdict : verdicts) out["verdicts"].push_back(to_json(verdict));
      print(out);
      return passed ? exit_fine : exit_check_failed;
    }
    print(one_line(machine()) + "\n\n");
    Table table({"backend", "dtype", "of", "L2 error", "naive", "worst row", "naive", "used", "verdict"});
    Table rest({"backend", "dtype", "selection, threads"});
    const auto number = [](double value) { return fmt::format("{:.2e}", value); };
    for (const Verdict& verdict : verdicts) {
      for (const Quantity& one : verdict.quantities)
        table.add({verdict.backend, verdict.dtype, one.name, number(one.l2), number(one.naive_l2), number(one.row),
                   number(one.naive_row), fmt::format("{:.0f} %", 100 * one.used),
                   one.failures == 0 ? "fine" : "FAILED"});
      rest.add({verdict.backend, verdict.dtype,
                fmt::format("of {} pairs {} differ in the tie band, {} outside", verdict.pairs, verdict.in_band,
                            verdict.wrong)});
      rest.add({verdict.backend, verdict.dtype,
                fmt::format("of {} problems {} differ with {} threads; {} refused", verdict.problems, verdict.unstable,
                            options->threads, verdict.refused)});
    }
    print(table);
    print("\nErrors are relative; used: share of the budget (see vmoba check --help).\n\n");
    print(rest);
    for (const Verdict& verdict : verdicts)
      for (const std::string& message : verdict.messages)
        print(fmt::format("{} {}: {}\n", verdict.backend, verdict.dtype, message));
    print(passed ? "\nall within budget\n" : "\nFAILED\n");
    return passed ? exit_fine : exit_check_failed;
  };
}

}  // namespace vmoba::tools
