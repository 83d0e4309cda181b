// SPDX-License-Identifier: Apache-2.0
// attend: a problem cut into items, who packs their keys, and the memory they work in.
#include "cpu/attend.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/memory.hpp"
#include "cpu/parallel.hpp"
#include "cpu/plan.hpp"
#include "cpu/tile_item.hpp"

namespace vmoba::cpu {
namespace {

// A row's result does not depend on where the indices are cut, so the cut may follow the threads and the blocks. Items
// that share panels keep few fp32 rows of q and out, 1 KB each at D 128; with fewer still, a group of the rows of a
// sparse tile is seldom full (1,024 rows and blocks of 128: 6 % slower). Those that pack every key tile for themselves
// are longer, but with small blocks the rows are what moves and should stay in L2.
constexpr std::int64_t rows_of_shared_panels = 1536;
std::int64_t rows_of_own_panels(const Partition& keys) { return keys.tokens() <= 32 * keys.blocks() ? 1024 : 3072; }

// The items of a sample: of every key/value head `packs` that make its panels (0: its items pack for themselves), then
// those of its query heads, cut by cut.
struct SamplePlan {
  Cut cut;
  std::int64_t packs = 0, uses = 0;
  std::int64_t begin = 0;  // first item
};

struct Plan {
  std::vector<SamplePlan> samples;
  std::int64_t items = 0;
  std::int64_t worker_bytes = 0;  // scratch of an item
  std::int64_t slots = 0;         // key/value heads whose panels are there at once
  std::int64_t slot_floats = 0;   // theirs

  std::int64_t panel_bytes() const { return slots * slot_floats * 4; }
};

Plan plan_attend(const Tier& tier, const Problem& problem, const Execution& execution, bool share) {
  const std::int64_t others = problem.batch() * problem.heads(), threads = workers(execution);
  const std::int64_t wanted = threads > 1 ? (4 * threads + others - 1) / others : 1;
  std::int64_t fewest = std::numeric_limits<std::int64_t>::max();
  Plan plan;
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const std::int64_t most = share ? rows_of_shared_panels : rows_of_own_panels(*problem.sample(b).partition);
    SamplePlan sample{.cut = cut_indices(indices_of(problem.sample(b)), wanted, 512, most), .begin = plan.items};
    sample.uses = problem.heads() / problem.kv_heads() * sample.cut.pieces;
    if (share && sample.uses > 2) {
      sample.packs = threads > 1 ? 2 * threads : 1;
      fewest = std::min(fewest, sample.uses);
      plan.slot_floats = std::max(plan.slot_floats, panel_floats(problem, b));
    }
    plan.items += problem.kv_heads() * (sample.packs + sample.uses);
    plan.worker_bytes =
        std::max(plan.worker_bytes, in_tiles(tier, problem) ? tile_attend_scratch(problem.dim(), sample.cut.length)
                                                            : attend_scratch(problem.dim(), sample.cut.length));
    plan.samples.push_back(sample);
  }
  if (plan.slot_floats > 0) {
    const std::int64_t busy = threads > 1 ? (threads + fewest - 1) / fewest + 1 : 1;
    plan.slots = std::min(busy, problem.batch() * problem.kv_heads());
  }
  return plan;
}

Plan plan_attend(const Tier& tier, const Problem& problem, const Execution& execution) {
  if (!in_tiles(tier, problem)) {
    Plan plan = plan_attend(tier, problem, execution, true);
    if (plan.panel_bytes() <= most_panel_bytes) return plan;
  }
  return plan_attend(tier, problem, execution, false);
}

}  // namespace

std::int64_t attend_scratch_bytes(const Tier& tier, const Problem& problem, const Execution& execution) {
  const Plan plan = plan_attend(tier, problem, execution);
  return workers(execution) * plan.worker_bytes + plan.panel_bytes();
}

void attend(const Tier& tier, const Problem& problem, const Selection* selection, const ConstView& q,
            const ConstView& k, const ConstView& v, const View& out, const View& lse, const Execution& execution) {
  const Plan plan = plan_attend(tier, problem, execution);
  const std::int64_t kv_heads = problem.kv_heads(), group = problem.heads() / kv_heads;
  const Memory memory(workers(execution) * plan.worker_bytes), panels(plan.panel_bytes());
  // Items that are done, of every key/value head of every sample.
  const auto pairs = static_cast<std::size_t>(problem.batch() * kv_heads);
  std::vector<std::atomic<std::int64_t>> packed(pairs), attended(pairs);
  for_items(execution, plan.items, [&](std::int64_t i, std::int64_t worker) {
    std::int64_t b = problem.batch() - 1;
    while (plan.samples[b].begin > i) --b;
    const SamplePlan& sample = plan.samples[b];
    const std::int64_t items = sample.packs + sample.uses, g = (i - sample.begin) / items, pair = b * kv_heads + g;
    const std::int64_t number = (i - sample.begin) % items - sample.packs;
    const auto picked_of = [&](std::int64_t head, std::int64_t count) {
      return selection && !keeps_all(*selection, b, head, count) ? selection : nullptr;
    };
    const Selection* const picked_of_group = picked_of(g * group, group);
    const Matrix keys = matrix(problem, k, b, g), values = matrix(problem, v, b, g);
    float* const slot =
        sample.packs ? reinterpret_cast<float*>(panels.data()) + pair % plan.slots * plan.slot_floats : nullptr;
    if (number < 0) {
      // All that had this slot must be finished; one that shares nothing between them has waited for nobody.
      for (std::int64_t before = pair - plan.slots; before >= 0; before -= plan.slots) {
        wait_until(attended[before], plan.samples[before / kv_heads].uses);
      }
      tier.pack({shape_of(problem, b, picked_of_group), keys, values, slot, number + sample.packs, sample.packs});
      packed[pair].fetch_add(1, std::memory_order_release);
      return;
    }
    wait_until(packed[pair], sample.packs);
    const std::int64_t h = g * group + number / sample.cut.pieces, piece = number % sample.cut.pieces;
    const Selection* const picked = picked_of(h, 1);
    AttendItem item{};
    item.shape = shape_of(problem, b, picked);
    item.q = matrix(problem, q, b, h);
    item.k = keys;
    item.v = values;
    item.panels = picked == picked_of_group ? slot : nullptr;  // a dense head among others has tiles of its own
    item.out = matrix(problem, out, b, h);
    if (lse) item.lse = static_cast<float*>(matrix(problem, lse, b, h).data);
    item.lse_stride = lse.token_stride;
    item.selection = picked ? picked->words_of(b, h, 0) : nullptr;
    item.first = piece * sample.cut.length;
    item.last = std::min(item.first + sample.cut.length, item.shape.indices());
    item.clears = piece == 0;
    item.scratch = memory.data() + worker * plan.worker_bytes;
    tier.attend(item);
    attended[pair].fetch_add(1, std::memory_order_release);
  });
}

}  // namespace vmoba::cpu
