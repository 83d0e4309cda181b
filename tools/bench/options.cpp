// SPDX-License-Identifier: Apache-2.0
// Options of vmoba bench: declared, checked, and turned into configurations.
#include "tools/bench/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tools/bench/data.hpp"
#include "tools/output.hpp"
#include "tools/parse.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

// Whole numbers from 1, apart by commas.
std::vector<std::int64_t> parse_sizes(const std::string& text, const std::string& option, const char* example) {
  std::vector<std::int64_t> out;
  for (const double value : parse_numbers(text, option)) {
    if (value < 1) throw_argument(option, text, "is below 1", std::string("use for example ") + example);
    if (value != std::floor(value) || value > 1e9)
      throw_argument(option, text, "is not a whole number of a sensible size",
                     std::string("use for example ") + example);
    out.push_back(static_cast<std::int64_t>(value));
  }
  return out;
}

struct Layer {
  std::string label;
  Block block;
  Policy policy;
};

std::vector<Layer> layers_of(const Preset& row, const Grid& grid, const BenchOptions& options) {
  std::vector<Layer> out;
  if (!options.blocks.empty()) {
    for (const Block& block : parse_blocks(options.blocks, "--blocks")) {
      const Block fitting = clamp(block, grid);
      out.push_back({to_text(fitting), fitting, Threshold{}});
    }
    return out;
  }
  for (std::size_t layer = 0; layer < row.cycle.size(); ++layer)
    out.push_back(
        {fmt::format("{}D", layer + 1), shrink(row.cycle[layer].block, row.grid, grid), row.cycle[layer].policy});
  return out;
}

// Every layer once for every density, else every tau, else with its own policy.
std::vector<SparseCase> sparse_cases(const Preset& row, const Grid& grid, const BenchOptions& options) {
  std::vector<double> densities, taus;
  if (!options.density.empty()) densities = parse_numbers(options.density, "--density");
  if (!options.tau.empty()) taus = parse_numbers(options.tau, "--tau");
  for (const double density : densities)
    if (!(density > 0 && density <= 1))
      throw_argument("--density", fmt::format("{}", density), "is outside 0..1", "use shares above 0, for example 0.2");
  for (const double tau : taus)
    if (!(tau > 0)) throw_argument("--tau", fmt::format("{}", tau), "is not above 0", "use for example 0.25");
  std::vector<SparseCase> out;
  for (const Layer& layer : layers_of(row, grid, options)) {
    if (densities.empty() && taus.empty()) out.push_back({layer.label, layer.block, layer.policy});
    for (const double density : densities)
      out.push_back({densities.size() > 1 ? fmt::format("{} {:g}", layer.label, density) : layer.label, layer.block,
                     Threshold{}, density});
    for (const double tau : taus)
      out.push_back({taus.size() > 1 || !densities.empty() ? fmt::format("{} tau {:g}", layer.label, tau) : layer.label,
                     layer.block, Threshold{.tau = tau}});
  }
  return out;
}

constexpr std::array directions{"forward", "forward+backward", "both"};

}  // namespace

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    if (end > begin) out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

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

void declare(CLI::App& command, BenchOptions& o) {
  command.add_option("--suite", o.suite,
                     "issue: what the README promises, at 8K tokens, and memory at 33K; targets: every target of the "
                     "cpu engine, a line each; sweeps: over tokens, density, blocks and dtypes, some minutes; left "
                     "out: what --preset, --tokens and the rest say");
  command.add_option("--only", o.only, "with --suite targets: the lines that hold one of these words, apart by commas");
  command.add_flag("--quick", o.quick, "with --suite targets, sweeps or --fit: fewer tokens and rounds, noisier");
  command.add_flag("--fit", o.fit,
                   "measure a handful of shapes and fit the cost model of this machine; --out writes it for --cost");
  command.add_option("--preset", o.preset, "configurations by name, apart by commas, scaled to --tokens")
      ->capture_default_str();
  command.add_option("--tokens", o.tokens, "tokens to scale the grids to, apart by commas; blocks shrink with them")
      ->capture_default_str();
  command.add_option("--heads", o.heads, "query heads H")->capture_default_str();
  command.add_option("--dim", o.dims, "head dims D, apart by commas")->capture_default_str();
  command
      .add_option("--dtype", o.dtypes,
                  "dtypes vmoba runs in, apart by commas; torch runs f32 and bf16, the better counts")
      ->capture_default_str();
  command.add_option("--blocks", o.blocks,
                     "blocks T,Y,X;T,Y,X;run:TOKENS;... instead of the preset's 1D, 2D and 3D, cut to the grid");
  command.add_option("--density", o.density,
                     "densities, apart by commas: tau is searched for; left out: the preset's policy");
  command.add_option("--tau", o.tau, "thresholds, apart by commas; left out: the preset's policy");
  command.add_option("--direction", o.direction, "forward, forward+backward or both")->capture_default_str();
  command.add_option("--data", o.data, "random, smooth, rendered, clip:FILE, apart by commas")->capture_default_str();
  command.add_option("--seconds", o.seconds, "time for the rounds of one configuration; three rounds at least")
      ->capture_default_str();
  command.add_option("--repeats", o.repeats, "most rounds of one configuration")->capture_default_str();
  command.add_option("--threads", o.threads, "threads; 0: one a core")->capture_default_str();
  command.add_option("--backend", o.backend, "one backend by name; left out: the best that runs here");
  command.add_option("--seed", o.seed, "seed of the data")->capture_default_str();
  command.add_flag("--memory", o.memory, "measure the memory of every configuration too, in child processes");
  command.add_flag("--no-flex", o.no_flex, "leave FlexAttention out: compiling it takes most of a minute");
  command.add_option("--python", o.python,
                     "interpreter that has vmoba, for FlexAttention and --plots; left out: python3 of .venv beside the "
                     "program, or of PATH");
  command.add_option(
      "--out", o.out,
      "write the JSON (--fit: the cost file) to a file too; a folder: to MACHINE-COMMIT-SUITE.json there");
  command.add_flag("--plots", o.plots, "with --suite sweeps and --out: draw the sweeps beside the JSON");
  command.add_flag("--json", o.json, json_help);
}

void check_bench(const CLI::App& command, const BenchOptions& o) {
  const auto given = [&](const char* option) { return command.get_option(option)->count() > 0; };
  const auto no_effect = [&](const char* option) {
    throw_argument(option, command.get_option(option)->as<std::string>(),
                   o.fit ? "has no effect with --fit" : "has no effect with --suite " + o.suite,
                   "leave one of the two out");
  };
  const bool targets = o.suite == "targets", sweeps = o.suite == "sweeps";
  if (!o.suite.empty() && o.suite != "issue" && !targets && !sweeps)
    throw_argument("--suite", o.suite, "is no suite known here",
                   "use issue, targets or sweeps, or leave it out and choose by --preset, --tokens, --density");
  if (!o.only.empty() && !targets)
    throw_argument("--only", o.only, "has no effect without --suite targets", "leave one of the two out");
  if (o.quick && !targets && !sweeps && !o.fit)
    throw_argument("--quick", "given", "has no effect without --suite targets, --suite sweeps or --fit",
                   "leave it out");
  if (sweeps && o.preset.find(',') != std::string::npos)
    throw_argument("--preset", o.preset, "is more than one", "run --suite sweeps once for each");
  if (o.plots && (!sweeps || o.out.empty()))
    throw_argument("--plots", "given", "has no effect without --suite sweeps and --out", "give both, or leave it out");
  if (o.plots && o.json)
    throw_argument("--plots", "given", "prints the names of its files, which --json has no place for",
                   "leave one of the two out");
  if (o.fit && !o.suite.empty())
    throw_argument("--fit", "given", "has no effect with --suite " + o.suite, "leave one of the two out");
  if (!o.suite.empty() || o.fit) {
    for (const char* option : {"--preset", "--tokens", "--heads", "--dim", "--dtype", "--blocks", "--density", "--tau",
                               "--direction", "--memory"})
      if (given(option) && !(sweeps && option == std::string("--preset"))) no_effect(option);
  }
  if (targets || o.fit)
    for (const char* option : {"--data", "--seconds", "--repeats"})
      if (given(option)) no_effect(option);
  if (o.heads < 1) throw_argument("--heads", std::to_string(o.heads), "is below 1", "use 1 or more");
  if (o.repeats < 1) throw_argument("--repeats", std::to_string(o.repeats), "is below 1", "use 3 or more for a spread");
  if (std::find(directions.begin(), directions.end(), o.direction) == directions.end())
    throw_argument("--direction", o.direction, "is no direction known here", "use forward, forward+backward or both");
}

std::vector<NamedCase> cases_of(const BenchOptions& options) {
  const std::vector<std::int64_t> tokens = parse_sizes(options.tokens, "--tokens", "8192");
  const std::vector<std::int64_t> dims = parse_sizes(options.dims, "--dim", "64,128");
  std::vector<DType> dtypes;
  for (const std::string& dtype : split(options.dtypes)) dtypes.push_back(parse_dtype(dtype, "--dtype"));
  std::vector<NamedCase> out;
  for (const std::string& name : split(options.preset)) {
    const Preset& row = preset(name);
    for (const std::int64_t count : tokens)
      for (const std::int64_t dim : dims)
        for (const DType dtype : dtypes)
          for (const std::string& kind : split(options.data)) {
            check_kind_of_data(kind);
            NamedCase named{name};
            BenchCase& one = named.bench;
            one.data = kind;
            one.grid = scale_to(row.grid, static_cast<double>(count));
            one.heads = options.heads;
            one.dim = dim;
            one.dtype = dtype;
            one.backend = options.backend;
            one.forward = options.direction != "forward+backward";
            one.backward = options.direction != "forward";
            one.sparse = sparse_cases(row, one.grid, options);
            one.seed = static_cast<std::uint64_t>(options.seed);
            one.rounds.seconds = options.seconds;
            one.rounds.most = options.repeats;
            one.rounds.least = std::min<std::int64_t>(3, options.repeats);
            for (const SparseCase& sparse : one.sparse)
              choose_backend(Problem({.grid = one.grid,
                                      .block = sparse.block,
                                      .heads = one.heads,
                                      .dim = one.dim,
                                      .dtype = dtype,
                                      .policy = sparse.policy}),
                             {.backend = one.backend});
            out.push_back(std::move(named));
          }
  }
  if (out.empty())
    throw_argument("--data", options.data, "names nothing to measure", "use random, smooth, rendered or clip:FILE");
  return out;
}

}  // namespace vmoba::tools
