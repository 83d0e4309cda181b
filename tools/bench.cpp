// SPDX-License-Identifier: Apache-2.0
// vmoba bench: this build beside torch SDPA and FlexAttention, every ratio measured in one run.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <ctime>
#include <memory>

#include "io/file.hpp"
#include "tools/bench/memory.hpp"
#include "tools/bench/peak.hpp"
#include "tools/bench/run.hpp"
#include "tools/output.hpp"
#include "tools/parse.hpp"
#include "tools/process.hpp"
#include "tools/verb.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

struct Options {
  std::string suite, preset = "paper-93x576x1024", data = "random,smooth", dtypes = "f32", direction = "both", backend,
                     python;
  std::string density, tau, out;
  std::int64_t tokens = 4096, heads = 4, dim = 128, threads = 0, repeats = 9, seed = 1;
  double seconds = 20;
  bool json = false, no_flex = false, memory = false;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

// Blocks of the preset shrunk with the grid, so that their number stays about what it is at full size.
Block shrink(const Block& block, const Grid& from, const Grid& to) {
  if (const ::vmoba::Run* run = block.run())
    return ::vmoba::Run{std::max<std::int64_t>(1, run->tokens * to.tokens() / from.tokens())};
  const Cuboid& cuboid = *block.cuboid();
  const auto axis = [](std::int64_t extent, std::int64_t before, std::int64_t after) {
    if (extent == full) return full;
    return std::clamp<std::int64_t>(std::llround(static_cast<double>(extent * after) / static_cast<double>(before)), 1,
                                    after);
  };
  return {axis(cuboid.t, from.t, to.t), axis(cuboid.y, from.y, to.y), axis(cuboid.x, from.x, to.x)};
}

// The three layers of the preset on the grid, once for every density, else every tau, else the preset's own policies.
std::vector<SparseCase> sparse_cases(const Preset& preset, const Grid& grid, const Options& options) {
  const std::vector<double> densities =
      options.density.empty() ? std::vector<double>{} : parse_numbers(options.density, "--density");
  const std::vector<double> taus = options.tau.empty() ? std::vector<double>{} : parse_numbers(options.tau, "--tau");
  for (const double density : densities)
    if (!(density > 0 && density <= 1))
      throw_argument("--density", fmt::format("{}", density), "is outside 0..1", "use shares above 0, for example 0.2");
  for (const double tau : taus)
    if (!(tau > 0)) throw_argument("--tau", fmt::format("{}", tau), "is not above 0", "use for example 0.25");
  std::vector<SparseCase> out;
  for (int layer = 0; layer < 3; ++layer) {
    SparseCase one{fmt::format("{}D", layer + 1), shrink(preset.cycle[layer].block, preset.grid, grid),
                   preset.cycle[layer].policy};
    if (densities.empty() && taus.empty()) out.push_back(one);
    for (const double density : densities) {
      one.policy = Threshold{};
      one.density = density;
      if (densities.size() > 1) one.label = fmt::format("{}D {:g}", layer + 1, density);
      out.push_back(one);
    }
    for (const double tau : taus) {
      one.policy = Threshold{.tau = tau};
      one.density = 0;
      if (taus.size() > 1 || !densities.empty()) one.label = fmt::format("{}D tau {:g}", layer + 1, tau);
      out.push_back(one);
    }
  }
  return out;
}

std::string now() {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  char text[32];
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

Json to_json(const BenchRow& row, double peak) {
  const double median = row.times.median();
  Json out = {{"contender", row.contender}, {"direction", row.direction}, {"dtype", row.dtype}};
  if (!row.layer.empty()) {
    out["layer"] = row.layer;
    out["block"] = row.block;
    out["blocks"] = row.blocks;
    out["policy"] = row.policy;
  }
  out["density"] = row.density;
  out["seconds"] = {{"median", median},
                    {"fastest", row.times.fastest()},
                    {"slowest", row.times.slowest()},
                    {"spread", row.times.spread()},
                    {"rounds", row.times.seconds.size()}};
  out["flops"] = row.flops;
  out["gflops_per_second"] = row.flops / median / 1e9;
  out["share_of_peak"] = row.flops / median / peak;
  if (row.selection > 0) out["selection_seconds"] = row.selection;
  if (row.over_torch > 0) out["over_torch"] = row.over_torch;
  if (row.over_dense > 0) out["over_dense"] = row.over_dense;
  return out;
}

Table table_of(const std::vector<BenchRow>& rows, double peak) {
  Table table({"contender", "dtype", "layer", "block", "N", "direction", "density", "median", "spread", "GFLOP/s",
               "of peak", "vs torch", "vs dense", "selection"});
  const auto ratio = [](double value) { return value > 0 ? fmt::format("{:.2f}x", value) : std::string("-"); };
  for (const BenchRow& row : rows) {
    const double median = row.times.median();
    table.add({row.contender, row.dtype, row.layer, row.block, row.blocks > 0 ? std::to_string(row.blocks) : "",
               row.direction, fmt::format("{:.3f}", row.density), seconds_text(median),
               fmt::format("{:.1f} %", 100 * row.times.spread()), fmt::format("{:.1f}", row.flops / median / 1e9),
               fmt::format("{:.1f} %", 100 * row.flops / median / peak), ratio(row.over_torch), ratio(row.over_dense),
               row.selection > 0 ? fmt::format("{:.1f} %", 100 * row.selection / median) : ""});
  }
  return table;
}

Json to_json(const MemoryUse& use, const ProblemOptions& options) {
  Json out = {{"grid", {options.grid.t, options.grid.y, options.grid.x}},
              {"block", to_text(options.block)},
              {"policy", describe(options.policy)},
              {"heads", options.heads},
              {"dim", options.dim},
              {"dtype", name(options.dtype)},
              {"how",
               "rise of the resident high-water mark (VmHWM) over what was resident with every tensor touched, each "
               "call in a forked child"}};
  if (!use.problem_with_it.empty()) {
    out["skipped"] = use.problem_with_it;
    return out;
  }
  out["backend"] = use.backend;
  out["tensors_bytes"] = use.tensors;
  out["select_bytes"] = use.select;
  out["forward_bytes"] = use.forward;
  out["backward_bytes"] = use.backward;
  out["scratch_bytes_claimed"] = use.claimed;
  out["density"] = use.density;
  out["seconds"] = use.seconds;
  return out;
}

std::string line_of(const MemoryUse& use, const ProblemOptions& options) {
  const std::string what = fmt::format("memory    {} tokens, {} heads of {}, {}, block {}: ", options.grid.tokens(),
                                       options.heads, options.dim, name(options.dtype), to_text(options.block));
  if (!use.problem_with_it.empty()) return what + "not measured, " + use.problem_with_it + "\n";
  return what + fmt::format(
                    "select +{}, forward +{}, backward +{} beyond {} of tensors (scratch_bytes says {}; {}, density "
                    "{:.3f}, {})\n",
                    bytes_text(use.select), bytes_text(use.forward), bytes_text(use.backward), bytes_text(use.tensors),
                    bytes_text(use.claimed), use.backend, use.density, seconds_text(use.seconds));
}

// What the project promises, as ratios of this run.
Json promises(const std::vector<std::vector<BenchRow>>& cases, const std::vector<std::string>& data,
              const MemoryUse& use) {
  Json out = Json::array();
  const auto add = [&](const std::string& what, double value, const char* rule, double target, bool reached) {
    out.push_back({{"what", what}, {"value", value}, {"rule", rule}, {"target", target}, {"reached", reached}});
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    double forward = 0, both = 0, own_forward = 0, own_both = 0, sparse = 0;
    std::int64_t layers = 0;
    for (const BenchRow& row : cases[i]) {
      const double median = row.times.median();
      const bool is_both = row.direction == "forward+backward";
      if (row.contender == "torch-sdpa" && row.dtype == "f32") (is_both ? both : forward) = median;
      if (row.contender == "vmoba-dense") (is_both ? own_both : own_forward) = median;
      if (row.contender == "vmoba-sparse" && is_both) sparse += median, ++layers;
    }
    add(data[i] + ": dense forward over torch SDPA f32", forward / own_forward, ">=", 1.0, forward >= own_forward);
    const double backward = (both - forward) / (own_both - own_forward);
    add(data[i] + ": dense backward over torch SDPA f32", backward, ">=", 1.0, backward >= 1);
    const double gain = own_both * static_cast<double>(layers) / sparse;
    add(data[i] + ": sparse at density 0.2 over our dense, forward + backward, selection included, mean of 1D 2D 3D",
        gain, ">=", 3.0, gain >= 3);
  }
  if (use.problem_with_it.empty())
    add("transient memory of a forward + backward at 33K tokens, 12 heads, D 128, GB", use.most() / 1e9, "<=", 0.25,
        use.most() <= 0.25e9);
  return out;
}

int bench(Options options) {
  const bool issue = options.suite == "issue";
  if (!options.suite.empty() && !issue)
    throw_argument("--suite", options.suite, "is no suite known here",
                   "use issue, or leave it out and choose by --preset, --tokens, --density");
  if (issue) {
    options.preset = "paper-93x576x1024";
    options.tokens = 8192;
    options.density = "0.2";
    options.tau.clear();
    options.dtypes = "f32";
    options.direction = "both";
    options.heads = 4;
    options.dim = 128;
  }
  if (options.tokens < 1)
    throw_argument("--tokens", std::to_string(options.tokens), "is below 1", "use for example 8192");
  if (options.heads < 1) throw_argument("--heads", std::to_string(options.heads), "is below 1", "use 1 or more");
  if (options.repeats < 1)
    throw_argument("--repeats", std::to_string(options.repeats), "is below 1", "use 3 or more for a spread");
  if (options.direction != "both" && options.direction != "forward" && options.direction != "forward+backward")
    throw_argument("--direction", options.direction, "is no direction known here",
                   "use forward, forward+backward or both");
  const std::int64_t threads = thread_count(options.threads);
  std::vector<DType> dtypes;
  for (const std::string& dtype : split(options.dtypes)) dtypes.push_back(parse_dtype(dtype, "--dtype"));
  const std::vector<std::string> data = split(options.data), names = split(options.preset);
  std::vector<BenchCase> cases;
  std::vector<std::string> labels;
  for (const std::string& name : names)
    for (const DType dtype : dtypes)
      for (const std::string& kind : data) {
        const Preset& row = preset(name);
        BenchCase one;
        one.data = kind;
        one.grid = scale_to(row.grid, static_cast<double>(options.tokens));
        one.heads = options.heads;
        one.dim = options.dim;
        one.dtype = dtype;
        one.backend = options.backend;
        one.forward = options.direction != "forward+backward";
        one.backward = options.direction != "forward";
        one.sparse = sparse_cases(row, one.grid, options);
        one.seed = static_cast<std::uint64_t>(options.seed);
        one.rounds.seconds = options.seconds;
        one.rounds.most = options.repeats;
        one.rounds.least = std::min<std::int64_t>(3, options.repeats);
        cases.push_back(one);
        labels.push_back(kind);
        // Refuses what no backend here takes before anything is measured.
        choose_backend(
            Problem(
                {.grid = one.grid, .block = one.sparse[0].block, .heads = one.heads, .dim = one.dim, .dtype = dtype}),
            {.backend = one.backend});
      }
  if (cases.empty())
    throw_argument("--data", options.data, "names nothing to measure", "use random, smooth, rendered or clip:FILE");

  const Machine here = machine();
  if (!options.json) print(one_line(here) + "\n");
  // First, while this process is a single thread.
  Json memory = Json::array();
  MemoryUse promised;
  std::vector<ProblemOptions> measured;
  if (issue) {
    const Preset& row = preset("paper-81x480x832");
    measured.push_back({.grid = row.grid, .block = row.cycle[2].block, .heads = 12, .dim = 128, .policy = Threshold{}});
  } else if (options.memory) {
    for (const BenchCase& one : cases)
      for (const SparseCase& sparse : one.sparse)
        measured.push_back({.grid = one.grid,
                            .block = sparse.block,
                            .heads = one.heads,
                            .dim = one.dim,
                            .dtype = one.dtype,
                            .policy = sparse.policy});
  }
  for (const ProblemOptions& problem : measured) {
    const MemoryUse use = measure_memory(problem, threads, options.backend);
    if (issue) promised = use;
    memory.push_back(to_json(use, problem));
    if (!options.json) print(line_of(use, problem));
  }
  const std::vector<Peak> peaks = measure_peaks(threads);
  const double peak = peaks.back().flops;
  if (!options.json) {
    print(fmt::format("threads   {}\npeak      ", threads));
    for (const Peak& one : peaks) print(fmt::format("{} {:.0f}  ", one.tier, one.flops / 1e9));
    print("GFLOP/s of fp32 multiply-adds; shares below are of the last\n");
  }
  at::set_num_threads(static_cast<int>(threads));
  Json results = Json::array();
  std::vector<std::vector<BenchRow>> all;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const BenchCase& one = cases[i];
    std::unique_ptr<Progress> bar;
    all.push_back(run_case(one, [&](std::int64_t of, const std::string& line) {
      if (!bar) bar = std::make_unique<Progress>(one.data, of);
      bar->advance(1, line);
    }));
    bar.reset();
    Json rows = Json::array();
    for (const BenchRow& row : all.back()) rows.push_back(to_json(row, peak));
    const std::string preset_name = names[i / (dtypes.size() * data.size())];
    results.push_back({{"preset", preset_name},
                       {"data", one.data},
                       {"grid", {one.grid.t, one.grid.y, one.grid.x}},
                       {"tokens", one.grid.tokens()},
                       {"heads", one.heads},
                       {"dim", one.dim},
                       {"dtype", name(one.dtype)},
                       {"rows", rows}});
    if (!options.json) {
      print(fmt::format("\n{} scaled to {} = {} tokens, {} heads of {}, {}, data {}\n", preset_name, to_text(one.grid),
                        one.grid.tokens(), one.heads, one.dim, name(one.dtype), one.data));
      print(table_of(all.back(), peak));
    }
  }
  Json flex = {{"skipped", "switched off by --no-flex"}};
  if (!options.no_flex) {
    const BenchCase& one = cases[0];
    const Json request = {
        {"grid", {one.grid.t, one.grid.y, one.grid.x}}, {"heads", one.heads}, {"dim", one.dim}, {"threads", threads},
        {"block", to_text(one.sparse[2].block)},        {"tau", 0.25},        {"repeats", 5}};
    const Outcome outcome = run_process({find_python(options.python), "-m", "vmoba._flex", request.dump()}, true);
    flex = Json::parse(outcome.out, nullptr, false);
    if (!flex.is_object()) {
      std::string last = outcome.errors;
      while (!last.empty() && last.back() == '\n') last.pop_back();
      if (const std::size_t cut = last.find_last_of('\n'); cut != std::string::npos) last = last.substr(cut + 1);
      flex = {{"skipped", fmt::format("python -m vmoba._flex ended with code {}: {}", outcome.code, last)}};
    }
  }
  if (!options.json) {
    if (flex.contains("skipped"))
      print(fmt::format("\nFlexAttention: skipped, {}\n", flex["skipped"].get<std::string>()));
    else
      print(fmt::format(
          "\nFlexAttention forward, {} tokens, block {}, density {:.3f}, f32: {}; torch SDPA beside it {} ({:.2f}x); "
          "compiled in {}\n",
          flex["tokens"].get<std::int64_t>(), flex["block"].get<std::string>(), flex["density"].get<double>(),
          seconds_text(flex["seconds"]), seconds_text(flex["sdpa_seconds"]),
          flex["sdpa_seconds"].get<double>() / flex["seconds"].get<double>(), seconds_text(flex["compile_seconds"])));
  }
  Json out = {{"format", "vmoba-bench-1"}, {"when", now()},    {"machine", to_json(here)}, {"threads", threads},
              {"peaks", Json::array()},    {"memory", memory}, {"cases", results},         {"flex_attention", flex}};
  for (const Peak& one : peaks) out["peaks"].push_back({{"tier", one.tier}, {"flops_per_second", one.flops}});
  if (issue) {
    out["promises"] = promises(all, labels, promised);
    if (!options.json) {
      Table table({"promise", "measured", "", "target", "reached"});
      for (const Json& one : out["promises"])
        table.add({one["what"].get<std::string>(), fmt::format("{:.3f}", one["value"].get<double>()),
                   one["rule"].get<std::string>(), fmt::format("{:g}", one["target"].get<double>()),
                   one["reached"].get<bool>() ? "yes" : "no"});
      print("\n");
      print(table);
    }
  }
  if (!options.out.empty()) {
    io::write_file(options.out, out.dump(1) + "\n");
    if (!options.json) print(fmt::format("\n{} written\n", options.out));
  }
  if (options.json) print(out);
  return exit_fine;
}

}  // namespace

Run setup_bench(CLI::App& command) {
  auto options = std::make_shared<Options>();
  command.add_option("--suite", options->suite,
                     "issue: the figures the project promises, at 8K tokens, and memory at 33K");
  command.add_option("--preset", options->preset, "configurations by name, apart by commas, scaled to --tokens")
      ->capture_default_str();
  command.add_option("--tokens", options->tokens, "tokens to scale the grids to; blocks shrink with them")
      ->capture_default_str();
  command.add_option("--heads", options->heads, "heads H")->capture_default_str();
  command.add_option("--dim", options->dim, "head dim D")->capture_default_str();
  command
      .add_option("--dtype", options->dtypes,
                  "dtypes of ours, apart by commas; torch runs f32 and bf16, the better counts")
      ->capture_default_str();
  command.add_option("--density", options->density,
                     "densities, apart by commas: tau is searched for; else the preset's policy");
  command.add_option("--tau", options->tau, "thresholds, apart by commas");
  command.add_option("--direction", options->direction, "forward, forward+backward or both")->capture_default_str();
  command.add_option("--data", options->data, "random, smooth, rendered, clip:FILE, apart by commas")
      ->capture_default_str();
  command.add_option("--seconds", options->seconds, "time for the rounds of one configuration; three rounds at least")
      ->capture_default_str();
  command.add_option("--repeats", options->repeats, "most rounds of one configuration")->capture_default_str();
  command.add_option("--threads", options->threads, "threads; 0: one a core");
  command.add_option("--backend", options->backend, "force one backend by name");
  command.add_option("--seed", options->seed, "seed of the data")->capture_default_str();
  command.add_flag("--memory", options->memory, "measure the memory of every configuration too, in child processes");
  command.add_flag("--no-flex", options->no_flex, "leave FlexAttention out: compiling it takes most of a minute");
  command.add_option("--python", options->python, "interpreter that has vmoba, for FlexAttention");
  command.add_option("--out", options->out, "write the JSON to a file too");
  command.add_flag("--json", options->json, "for machines");
  return [options] { return bench(*options); };
}

}  // namespace vmoba::tools
