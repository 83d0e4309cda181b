// SPDX-License-Identifier: Apache-2.0
// Google Benchmark of select, attend and attend_backward, tier by tier. One shape is the middle; each axis (tokens,
// block, density, dtype, D) is varied around it. Names are paths, so that --benchmark_filter picks an axis:
//   forward/cpu:haswell/f32/D=128/tokens=4096/block=2x8x8/density=0.2/threads=2
// Counters: GFLOP/s by selected pairs (forward 4 D a pair, backward 10 D; select: gate products, 2 D a row and block),
// their share of the fp32 multiply-add peak that this program measures for the tier, and the density that was run.
// Options besides Google Benchmark's: --threads=1,2 (default 1 and all cores), --tiers=cpu:haswell (default all).
#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "dispatch.hpp"
#include "float16.hpp"
#include "tools/bench/peak.hpp"
#include "vmoba/vmoba.hpp"

namespace {

using namespace vmoba;

constexpr std::int64_t heads = 2;

struct Shape {
  Grid grid{4, 32, 32};
  Cuboid block{2, 8, 8};
  double density = 0.2;  // 1: without a selection
  DType dtype = DType::f32;
  std::int64_t dim = 128;
};

std::string block_words(const Cuboid& block) {
  const auto extent = [](std::int64_t e) { return e == full ? std::string("full") : std::to_string(e); };
  return extent(block.t) + "x" + extent(block.y) + "x" + extent(block.x);
}
std::string words(const Shape& s, const std::string& tier) {
  std::ostringstream text;
  text << tier << "/" << name(s.dtype) << "/D=" << s.dim << "/tokens=" << s.grid.tokens()
       << "/block=" << block_words(s.block);
  return text.str();
}

Problem problem_of(const Shape& s, Policy policy = Threshold{}) {
  return Problem({.grid = s.grid, .block = s.block, .heads = heads, .dim = s.dim, .dtype = s.dtype, .policy = policy});
}

// [tokens, heads, dim] of normal numbers.
std::vector<unsigned char> normal(const Shape& s, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution;
  const std::int64_t count = s.grid.tokens() * heads * s.dim;
  std::vector<unsigned char> bytes(static_cast<std::size_t>(count * bytes_of(s.dtype)));
  dispatch_dtype(s.dtype, [&](auto* type) {
    using Element = std::remove_pointer_t<decltype(type)>;
    auto* to = reinterpret_cast<Element*>(bytes.data());
    for (std::int64_t i = 0; i < count; ++i) to[i] = from_double<Element>(distribution(random));
  });
  return bytes;
}

// Own blocks, and others by chance until the density is met: the same cost whatever select would choose.
Selection random_selection(const Problem& problem, double density) {
  Selection selection(problem);
  std::mt19937 random(7);
  const Partition& partition = *problem.sample(0).partition;
  const double blocks = static_cast<double>(partition.blocks());
  std::bernoulli_distribution take(std::max(0.0, (density * blocks - 1) / std::max(1.0, blocks - 1)));
  for (std::int64_t h = 0; h < problem.heads(); ++h) {
    for (std::int64_t row = 0; row < partition.tokens(); ++row) {
      for (std::int64_t c = 0; c < partition.blocks(); ++c) {
        if (c == partition.own(row) || take(random)) selection.set(0, h, row, c);
      }
    }
  }
  return selection;
}

// Everything of one shape, made when its first benchmark runs and dropped when another shape's does.
struct Bench {
  Problem problem;
  std::optional<Selection> selection;
  std::vector<unsigned char> q, k, v, out, dout, dq, dk, dv;
  std::vector<float> lse;

  explicit Bench(const Shape& s)
      : problem(problem_of(s)),
        q(normal(s, 1)),
        k(normal(s, 2)),
        v(normal(s, 3)),
        out(q),
        dout(normal(s, 4)),
        dq(q),
        dk(q),
        dv(q),
        lse(static_cast<std::size_t>(heads * s.grid.tokens())) {
    if (s.density < 1) selection = random_selection(problem, s.density);
  }
  double density() const { return selection ? selection->density() : 1; }
  ConstView in(const std::vector<unsigned char>& bytes) const { return {bytes.data(), problem.dtype()}; }
  View to(std::vector<unsigned char>& bytes) const { return {bytes.data(), problem.dtype()}; }
  void forward(const Execution& execution) {
    selection ? attend(problem, *selection, in(q), in(k), in(v), to(out), lse, execution)
              : attend(problem, in(q), in(k), in(v), to(out), lse, execution);
  }
  void backward(const Execution& execution) {
    const BackwardTensors t{in(q), in(k), in(v), in(out), lse, in(dout), {}, to(dq), to(dk), to(dv)};
    selection ? attend_backward(problem, *selection, t, execution) : attend_backward(problem, t, execution);
  }
};

Bench& bench_of(const Shape& s) {
  static std::string which;
  static std::unique_ptr<Bench> bench;
  const std::string wanted = words(s, "") + std::to_string(s.density);
  if (wanted != which) bench = std::make_unique<Bench>(s), which = wanted;
  return *bench;
}

// FLOP/s of the tier on so many threads; of the widest measured where the tier has no loop of its own.
double peak_of(const std::string& tier, std::int64_t threads) {
  static std::map<std::int64_t, std::vector<tools::Peak>> measured;
  std::vector<tools::Peak>& peaks = measured[threads];
  if (peaks.empty()) peaks = tools::measure_peaks(threads);
  return tools::peak_of(peaks, tier).flops;
}

// Runs body for as long as state asks; flops of one run.
template <class Body>
void measure(benchmark::State& state, double flops, const std::string& tier, std::int64_t threads, Body&& body) {
  using Clock = std::chrono::steady_clock;
  const double peak = peak_of(tier, threads);
  const auto start = Clock::now();
  for (auto _ : state) body();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const double rate = flops * static_cast<double>(state.iterations()) / seconds;
  state.counters["GFLOP/s"] = rate / 1e9;
  state.counters["of_peak"] = rate / peak;
}

void run_attend(benchmark::State& state, const Shape& s, const std::string& tier, std::int64_t threads, bool backward) {
  Bench& bench = bench_of(s);
  ThreadPool pool(threads);
  const Execution execution = pool.execution(tier);
  bench.forward(execution);  // backward reads its out and lse
  const double rows = static_cast<double>(s.grid.tokens());
  const double pairs = rows * rows * static_cast<double>(heads) * bench.density();
  measure(state, pairs * static_cast<double>(s.dim) * (backward ? 10 : 4), tier, threads,
          [&] { backward ? bench.backward(execution) : bench.forward(execution); });
  state.counters["density"] = bench.density();
}

void run_select(benchmark::State& state, const Shape& s, const Policy& policy, const std::string& tier,
                std::int64_t threads) {
  Bench& bench = bench_of(s);
  const Problem problem = problem_of(s, policy);
  ThreadPool pool(threads);
  const Execution execution = pool.execution(tier);
  Selection selection(problem);
  const double rows = static_cast<double>(s.grid.tokens()), blocks = static_cast<double>(selection.blocks(0));
  measure(state, 2 * rows * blocks * static_cast<double>(heads * s.dim), tier, threads,
          [&] { select_into(problem, bench.in(bench.q), bench.in(bench.k), selection, execution); });
  state.counters["density"] = selection.density();
}

std::vector<Shape> shapes() {
  std::vector<Shape> list;
  const Shape middle;
  const auto add = [&](const auto& change) {
    Shape s = middle;
    change(s);
    list.push_back(s);
  };
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const std::int64_t dim : {64, 128}) {
      for (const double density : {0.2, 1.0}) add([&](Shape& s) { s.dtype = dtype, s.dim = dim, s.density = density; });
    }
  }
  for (const std::int64_t dim : {24, 96, 256}) add([&](Shape& s) { s.dim = dim; });
  for (const double density : {0.02, 0.05, 0.1, 0.4, 0.7, 0.95}) {
    add([&](Shape& s) { s.density = density, s.block = density < 0.1 ? Cuboid{1, 4, 8} : s.block; });
  }
  // 12, 32, 65, 512, 1024 tokens a block; ragged ones among them.
  for (const Cuboid block : {Cuboid{1, 3, 4}, {2, 4, 4}, {1, 5, 13}, {2, 16, 16}, {1, full, full}}) {
    add([&](Shape& s) { s.block = block; });
  }
  add([](Shape& s) { s.grid = {2, 16, 16}, s.block = {2, 4, 8}; });  // 512 tokens
  for (const std::int64_t frames : {1, 2, 8, 16}) {
    for (const double density : {0.2, 1.0}) {
      add([&](Shape& s) { s.grid.t = frames, s.block.t = std::min<std::int64_t>(frames, 2), s.density = density; });
    }
  }
  add([](Shape& s) { s.grid = {6, 45, 80}, s.block = {3, full, full}, s.density = 0.75; });  // 10,800 tokens a block
  return list;
}

void register_all(const std::vector<std::string>& tiers, const std::vector<std::int64_t>& threads) {
  const auto finish = [](benchmark::internal::Benchmark* b) { b->UseRealTime()->Unit(benchmark::kMillisecond); };
  const auto of_threads = [](std::int64_t n) { return "/threads=" + std::to_string(n); };
  std::set<std::string> taken;
  for (const std::string& tier : tiers) {
    for (const Shape& s : shapes()) {
      for (const std::int64_t n : threads) {
        for (const bool backward : {false, true}) {
          std::ostringstream text;
          text << (backward ? "backward/" : "forward/") << words(s, tier) << "/density=" << s.density << of_threads(n);
          if (!taken.insert(text.str()).second) continue;
          finish(benchmark::RegisterBenchmark(text.str().c_str(), [s, tier, n, backward](benchmark::State& state) {
            run_attend(state, s, tier, n, backward);
          }));
        }
      }
    }
    const Policy policies[]{Threshold{0.25, Scope::head}, Threshold{0.25, Scope::query}, Threshold{0.25, Scope::block},
                            Threshold{0.25, Scope::all},  TopK{6, Scope::head},          TopK{6, Scope::query},
                            TopK{6, Scope::all}};
    for (const Policy& policy : policies) {
      for (const Shape& s : {Shape{}, Shape{.grid = {16, 32, 32}}, Shape{.dtype = DType::bf16}, Shape{.dim = 64},
                             Shape{.block = {1, 3, 4}}, Shape{.grid = {2, 16, 16}, .block = {2, 4, 8}}}) {
        for (const std::int64_t n : threads) {
          const std::string text = "select/" + words(s, tier) + "/" + describe(policy) + of_threads(n);
          finish(benchmark::RegisterBenchmark(
              text.c_str(), [s, policy, tier, n](benchmark::State& state) { run_select(state, s, policy, tier, n); }));
        }
      }
    }
  }
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> tiers;
  for (const Backend& backend : backends()) {
    if (backend.name.starts_with("cpu:") && backend.unavailable().empty()) tiers.emplace_back(backend.name);
  }
  std::vector<std::int64_t> threads{1};
  if (const unsigned cores = std::thread::hardware_concurrency(); cores > 1) threads.push_back(cores);
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option.starts_with("--threads=")) {
      threads.clear();
      for (const std::string& n : split(option.substr(10))) threads.push_back(std::max(1, std::atoi(n.c_str())));
    } else if (option.starts_with("--tiers=")) {
      tiers = split(option.substr(8));
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  register_all(tiers, threads);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  for (const std::string& tier : tiers) {
    for (const std::int64_t n : threads) {
      benchmark::AddCustomContext(tier + " peak, " + std::to_string(n) + " threads",
                                  std::to_string(peak_of(tier, n) / 1e9) + " GFLOP/s");
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
