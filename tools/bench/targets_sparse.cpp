// SPDX-License-Identifier: Apache-2.0
// Targets of sparse attention and of the selection.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "tools/bench/contenders.hpp"
#include "tools/bench/options.hpp"
#include "tools/bench/targets.hpp"
#include "tools/parse.hpp"

namespace vmoba::tools {

namespace {

constexpr std::int64_t heads = 2, dim = 128;

struct SparseLine {
  std::string what;
  Block block;
  double density;
  bool small;  // blocks of 12 to 127 tokens
};

// Smooth data in the dtype that the tier is for.
Leaves leaves_of(const Targets& t, const Grid& grid) {
  return {make_inputs("smooth", grid, heads, dim, t.seed), t.amx ? at::kBFloat16 : at::kFloat, false};
}

}  // namespace

void sparse_targets(Targets& t) {
  const Grid grid = t.quick ? Grid{12, 16, 24} : Grid{24, 16, 24};
  std::vector<SparseLine> wanted;
  for (const double density : {0.15, 0.4}) {
    for (const Block& block :
         {Block{1, full, full}, Block{6, 8, 12}, Block{4, 4, 8}, Block{4, 4, 6}, Block{2, 4, 6}, Block{2, 2, 3}}) {
      const std::int64_t size = Partition(grid, block).largest();
      const SparseLine line{fmt::format("sparse attend, forward + backward, density {:g}, blocks of {}: share of "
                                        "1/density over our dense",
                                        density, size),
                            block, density, size < 128};
      if (t.wants(line.what)) wanted.push_back(line);
    }
  }
  if (wanted.empty()) return;
  const Leaves x = leaves_of(t, grid);
  std::vector<Contender> all{{"dense:", with_backward(x, vmoba_attention(spec_of(grid, Block{}, Dense{}, t.backend)))}};
  std::vector<double> densities;
  for (const SparseLine& line : wanted) {
    t.say("selecting");
    const ops::Spec spec = tuned(x, spec_of(grid, line.block, Threshold{}, t.backend), line.density);
    const at::Tensor bits = select_once(x, spec);
    densities.push_back(density_of(x, bits, spec));
    all.push_back({"sparse " + line.what + ":", with_backward(x, vmoba_attend(bits, spec))});
  }
  t.rounds(all, 15, 9);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Ratio r = ratio(all[0].times, all[i + 1].times);
    const double target = t.amx ? (wanted[i].small ? 0.75 : 0.85) : (wanted[i].small ? 0.8 : 0.9);
    t.add({wanted[i].what, r.value * densities[i], '>', target, r.spread,
           fmt::format("{:.2f}x at density {:.3f}, {} tokens, {} heads", r.value, densities[i], grid.tokens(), heads)});
  }
}

void selection_targets(Targets& t) {
  const Preset& row = preset("paper-93x576x1024");
  const Grid grid = scale_to(row.grid, 8192);
  struct One {
    std::string what;
    ops::Spec spec;
  };
  std::vector<One> wanted;
  for (const Scope scope : {Scope::head, Scope::query, Scope::block, Scope::all})
    for (std::size_t layer = 0; layer < 3; ++layer) {
      const std::string what =
          fmt::format("selection, Threshold {}, {}D blocks: share of a sparse forward", name(scope), layer + 1);
      if (!t.wants(what)) continue;
      wanted.push_back({what, spec_of(grid, shrink(row.cycle[layer].block, row.grid, grid),
                                      Threshold{.tau = 0.25, .scope = scope}, t.backend)});
    }
  if (wanted.empty()) return;
  const Leaves x = leaves_of(t, grid);
  std::vector<Contender> all;
  std::vector<double> densities;
  for (const One& one : wanted) {
    const at::Tensor bits = select_once(x, one.spec);
    densities.push_back(density_of(x, bits, one.spec));
    all.push_back({"select " + one.what + ":", select_only(x, one.spec)});
    all.push_back({"attend " + one.what + ":", forward_only(x, vmoba_attend(bits, one.spec))});
  }
  t.rounds(all, 8, 15);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    Times whole = all[2 * i].times;  // of the same round
    for (std::size_t r = 0; r < whole.seconds.size(); ++r) whole.seconds[r] += all[2 * i + 1].times.seconds[r];
    const Ratio r = ratio(all[2 * i].times, whole);
    t.add({wanted[i].what, r.value, '<', 0.05, r.spread,
           fmt::format("{} of {}, {} blocks, density {:.3f}, {} tokens, {} heads",
                       seconds_text(all[2 * i].times.median()), seconds_text(whole.median()),
                       Partition(grid, wanted[i].spec.block).blocks(), densities[i], grid.tokens(), heads)});
  }
}

void break_even_target(Targets& t) {
  const std::string what = "break-even with the best dense, forward + backward: tokens";
  if (!t.wants(what)) return;
  const Preset& row = preset("paper-93x576x1024");
  struct Point {
    double tokens, gain;
  };
  std::vector<Point> points;
  std::string told;
  for (const double tokens : t.quick ? std::vector<double>{384, 1024, 2048}
                                     : std::vector<double>{256, 384, 512, 768, 1024, 1536, 2048, 4096}) {
    const Grid grid = scale_to(row.grid, tokens);
    const Inputs inputs = make_inputs("smooth", grid, 4, dim, t.seed);
    const Leaves f32(inputs, at::kFloat, false), bf16(inputs, at::kBFloat16, false);
    const Leaves torch_f32(inputs, at::kFloat, true), torch_bf16(inputs, at::kBFloat16, true);
    const Leaves& ours = t.amx ? bf16 : f32;
    std::vector<Contender> all{
        {"dense:ours", with_backward(ours, vmoba_attention(spec_of(grid, Block{}, Dense{}, t.backend)))},
        {"dense:torch f32", with_backward(torch_f32, torch_sdpa())},
        {"dense:torch bf16", with_backward(torch_bf16, torch_sdpa())}};
    for (std::size_t layer = 0; layer < 3; ++layer)
      all.push_back({fmt::format("{}D:", layer + 1),
                     with_backward(ours, vmoba_attention(spec_of(grid, shrink(row.cycle[layer].block, row.grid, grid),
                                                                 Threshold{}, t.backend)))});
    t.rounds(all, 1.5, 40);
    double best = all[0].times.median(), sparse = 0;
    for (std::size_t i = 1; i < 3; ++i) best = std::min(best, all[i].times.median());
    for (std::size_t i = 3; i < 6; ++i) sparse += all[i].times.median() / 3;
    points.push_back({static_cast<double>(grid.tokens()), best / sparse});
    told += fmt::format("{}{} {:.2f}x", told.empty() ? "" : ", ", grid.tokens(), best / sparse);
  }
  // From the last size where sparse lost, interpolated in the logarithms; the smallest size when it never did.
  double tokens = points.front().tokens;
  for (std::size_t i = points.size(); i-- > 0;) {
    if (points[i].gain >= 1) continue;
    if (i + 1 == points.size()) {
      tokens = INFINITY;
    } else {
      const Point &a = points[i], &b = points[i + 1];
      const double share = std::log(1 / a.gain) / std::log(b.gain / a.gain);
      tokens = a.tokens * std::pow(b.tokens / a.tokens, share);
    }
    break;
  }
  t.add({what, tokens, '<', 2048, 0, "mean of 1D 2D 3D at tau 0.25, selection included: " + told});
}

void doubling_targets(Targets& t) {
  const Grid grid = t.quick ? Grid{16, 16, 16} : Grid{16, 16, 32};
  const auto label = [](std::int64_t blocks) {
    return fmt::format("twice the blocks, {} to {}: more time, forward + backward", blocks, 2 * blocks);
  };
  constexpr std::array<std::int64_t, 4> counts{16, 32, 64, 128};
  std::vector<std::int64_t> wanted;
  for (std::size_t i = 0; i + 1 < counts.size(); ++i)
    if (t.wants(label(counts[i]))) wanted.push_back(counts[i]);
  if (wanted.empty()) return;
  const Leaves x = leaves_of(t, grid);
  std::vector<Contender> all;
  std::vector<double> densities;
  for (const std::int64_t blocks : counts) {
    const ops::Spec spec = tuned(x, spec_of(grid, ::vmoba::Run{grid.tokens() / blocks}, Threshold{}, t.backend), 0.2);
    densities.push_back(density_of(x, select_once(x, spec), spec));
    all.push_back({fmt::format("{} blocks:", blocks), with_backward(x, vmoba_attention(spec))});
  }
  t.rounds(all, 8, 15);
  for (const std::int64_t blocks : wanted) {
    const auto i = static_cast<std::size_t>(std::find(counts.begin(), counts.end(), blocks) - counts.begin());
    const Ratio r = ratio(all[i + 1].times, all[i].times);
    t.add({label(blocks), r.value - 1, '<', 0.05, r.spread,
           fmt::format("{} to {}, density {:.3f} and {:.3f}, {} tokens, {} heads, selection included",
                       seconds_text(all[i].times.median()), seconds_text(all[i + 1].times.median()), densities[i],
                       densities[i + 1], grid.tokens(), heads)});
  }
}

}  // namespace vmoba::tools
