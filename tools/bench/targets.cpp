// SPDX-License-Identifier: Apache-2.0
// Targets of dense attention, of threads and of memory; what all lines share.
#include "tools/bench/targets.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>

#include "tools/bench/contenders.hpp"
#include "tools/output.hpp"
#include "torch/parallel.hpp"

namespace vmoba::tools {

bool Targets::wants(const std::string& line) const {
  return only.empty() || std::any_of(only.begin(), only.end(),
                                     [&](const std::string& word) { return line.find(word) != std::string::npos; });
}

void Targets::rounds(std::vector<Contender>& contenders, double seconds, std::int64_t most) const {
  const Rounds rounds{.seconds = quick ? seconds / 3 : seconds, .least = 3, .most = most};
  // torch's bf16 backward takes ten times ours on CPUs without bf16 products: once is enough then.
  measure_rounds(contenders, groups_of(contenders), rounds, [&](const std::string& name) { say(name); });
}

namespace {

void dense_of(Targets& t, std::int64_t dim) {
  const std::string forward = fmt::format("dense forward, D {}: ", dim),
                    backward = fmt::format("dense backward, D {}: ", dim);
  const std::string share = "share of the multiply-add peak", over = "over torch SDPA, the better of f32 and bf16";
  const std::string over_f32 = "over torch SDPA f32", over_bf16 = "over torch SDPA bf16, ours in bf16";
  const std::string turn = "over our forward's time";
  const bool has_forward = t.wants(forward + share) || t.wants(forward + over);
  const bool has_backward = t.wants(backward + share) || t.wants(backward + over_f32) ||
                            t.wants(backward + over_bf16) || (t.amx && t.wants(backward + turn));
  if (!has_forward && !has_backward) return;

  const Grid grid = t.quick ? Grid{8, 16, 16} : Grid{16, 16, 16};
  const std::int64_t heads = 4;
  const Inputs inputs = make_inputs("smooth", grid, heads, dim, t.seed);
  const ops::Spec dense = spec_of(grid, Block{}, Dense{}, t.backend);
  const Leaves f32(inputs, at::kFloat, false), bf16(inputs, at::kBFloat16, false);
  const Leaves torch_f32(inputs, at::kFloat, true), torch_bf16(inputs, at::kBFloat16, true);
  std::vector<Contender> all{{"forward: ours f32", forward_only(f32, vmoba_attention(dense))},
                             {"forward: ours bf16", forward_only(bf16, vmoba_attention(dense))},
                             {"forward: torch f32", forward_only(torch_f32, torch_sdpa())},
                             {"forward: torch bf16", forward_only(torch_bf16, torch_sdpa())}};
  if (has_backward) {
    all.push_back({"backward: ours f32", backward_only(f32, vmoba_attention(dense))});
    all.push_back({"backward: ours bf16", backward_only(bf16, vmoba_attention(dense))});
    all.push_back({"backward: torch f32", backward_only(torch_f32, torch_sdpa())});
    all.push_back({"backward: torch bf16", backward_only(torch_bf16, torch_sdpa())});
  }
  t.rounds(all, 6, 15);
  const auto tokens = static_cast<double>(grid.tokens());
  const double flops = 4 * tokens * tokens * static_cast<double>(heads * dim);
  // Tiers with matrix tiles are for bf16; the others compute in fp32 whatever comes.
  const Times &ours = all[t.amx ? 1 : 0].times,
              &torch = all[2].times.median() < all[3].times.median() ? all[2].times : all[3].times;
  const auto rate = [&](double work, const Times& times) {
    return fmt::format("{:.0f} of {:.0f} GFLOP/s", work / times.median() / 1e9, t.peak / 1e9);
  };
  const std::string shape = fmt::format("{} tokens, {} heads", grid.tokens(), heads);
  if (t.wants(forward + share))
    t.add({forward + share, flops / ours.median() / t.peak, '>',
           t.amx        ? 0.5
           : dim == 128 ? 0.86
                        : 0.82,
           ours.spread(), rate(flops, ours) + ", " + shape});
  if (t.wants(forward + over)) {
    const Ratio r = ratio(torch, ours);
    t.add({forward + over, r.value, '>', t.amx ? 1.0 : 1.3, r.spread,
           fmt::format("torch's best is {}, {}", &torch == &all[2].times ? "f32" : "bf16", shape)});
  }
  if (!has_backward) return;
  const Times& back = all[t.amx ? 5 : 4].times;
  if (t.amx && t.wants(backward + turn)) {
    const Ratio r = ratio(back, ours);
    t.add({backward + turn, r.value, '<', 2.7, r.spread, shape});
  }
  if (t.wants(backward + share))
    t.add({backward + share, 2.5 * flops / back.median() / t.peak, '>',
           t.amx ? std::nullopt : std::optional<double>(0.75), back.spread(), rate(2.5 * flops, back) + ", " + shape});
  if (t.wants(backward + over_f32)) {
    const Ratio r = ratio(all[6].times, all[4].times);
    t.add({backward + over_f32, r.value, '>', t.amx ? std::nullopt : std::optional<double>(1.4), r.spread, shape});
  }
  if (t.wants(backward + over_bf16)) {
    const Ratio r = ratio(all[7].times, all[5].times);
    t.add({backward + over_bf16, r.value, '>', t.amx ? std::nullopt : std::optional<double>(8), r.spread, shape});
  }
}

// Torch makes its threads anew when their number changes; a program does not change it between calls, so neither that
// nor their waking up is timed.
std::function<void()> with_threads(std::int64_t threads) {
  return [threads] {
    at::set_num_threads(static_cast<int>(threads));
    ops::torch_parallel_for(threads, [](std::int64_t) {});
  };
}

}  // namespace

void dense_targets(Targets& t) {
  for (const std::int64_t dim : {128, 64}) dense_of(t, dim);
}

void thread_targets(Targets& t) {
  const std::string head = "1 to 2 threads: ";
  const std::vector<std::string> parts{"attend forward", "attend backward", "selection"};
  if (std::none_of(parts.begin(), parts.end(), [&](const std::string& part) { return t.wants(head + part); })) return;
  if (machine().cores < 2) {
    t.add({head + "not measured", 0, '>', {}, 0, "one core here"});
    return;
  }
  const Grid grid = t.quick ? Grid{12, 16, 24} : Grid{24, 16, 24};
  constexpr int selections = 10;  // one takes 20 ms
  const Leaves x(make_inputs("smooth", grid, 4, 128, t.seed), at::kFloat, false);
  const ops::Spec spec = tuned(x, spec_of(grid, {4, 4, 8}, Threshold{}, t.backend), 0.2);
  const at::Tensor bits = select_once(x, spec);
  const std::vector<std::function<void()>> calls{forward_only(x, vmoba_attend(bits, spec)),
                                                 backward_only(x, vmoba_attend(bits, spec)),
                                                 [select = select_only(x, spec)] {
                                                   for (int i = 0; i < selections; ++i) select();
                                                 }};
  std::vector<Contender> all;
  for (std::size_t i = 0; i < parts.size(); ++i)
    for (const std::int64_t threads : {1, 2})
      all.push_back({fmt::format("{}:{} threads", parts[i], threads), calls[i], with_threads(threads)});
  t.rounds(all, 6, 15);
  at::set_num_threads(static_cast<int>(t.threads));
  const double machine_gives = measure_peaks(2).back().flops / measure_peaks(1).back().flops;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (!t.wants(head + parts[i])) continue;
    const Ratio r = ratio(all[2 * i].times, all[2 * i + 1].times);
    t.add({head + parts[i], r.value, '>', 1.9, r.spread,
           fmt::format("{} on one, {} tokens; a register loop scales {:.2f}x",
                       seconds_text(all[2 * i].times.median() / (i == 2 ? selections : 1)), grid.tokens(),
                       machine_gives)});
  }
}

void memory_target(Targets& t) {
  const std::string what = "peak extra memory, 33K tokens, 12 heads, D 128: GB";
  if (!t.wants(what)) return;
  t.say("memory");
  const Preset& row = preset("paper-81x480x832");
  // Scratch does not depend on the density: a low one is quicker.
  const MemoryUse use = measure_memory({.grid = row.grid,
                                        .block = row.cycle[2].block,
                                        .heads = 12,
                                        .dim = 128,
                                        .policy = Threshold{.tau = t.quick ? 0.02 : 0.1}},
                                       t.threads, t.backend);
  if (!use.problem_with_it.empty()) {
    t.add({what, 0, '<', {}, 0, "not measured, " + use.problem_with_it});
    return;
  }
  t.add({what, use.most() / 1e9, '<', 0.1, 0,
         fmt::format("select {}, forward {}, backward {}, density {:.3f}, {}", bytes_text(use.select),
                     bytes_text(use.forward), bytes_text(use.backward), use.density, use.backend)});
}

}  // namespace vmoba::tools
