// SPDX-License-Identifier: Apache-2.0
// attend_backward: a problem cut into items, the order they take turns in, and the memory they work in.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "cpu/attend.hpp"
#include "cpu/memory.hpp"
#include "cpu/parallel.hpp"
#include "cpu/plan.hpp"
#include "cpu/tile_item.hpp"

namespace vmoba::cpu {
namespace {

// One item a key/value head where there are enough of them to keep the threads busy; else its query heads are items of
// their own and their indices are cut, and these follow each other through the key tiles. An item reads and writes dk
// and dv of every tile, so pieces have 1024 rows or more; and where that costs no memory (fp32 gradients hold sums that
// are not finished), 2304 at most (1536: 1.01 to 1.05 of the time, 0.99 at 48 keys), or 4608 where blocks are large
// (0.94 to 0.98 of the time of 2304 at 96 to 576 keys, 1.03 at 64, 1.00 to 1.14 at 48): their tiles do more with every
// row they read, and move dk and dv half as often. An item of so many rows copies its q and dout, and sums dq, in
// memory of its own: rows of a head lie 4 KB apart where eight heads of 128 are side by side, fall into a sixteenth of
// the sets of L1 and L2, and drove each other out before they were used (20 % of the time of a dense backward was
// waiting for them). Sums of matrix tiles take 32 rows at a time, beginning anew with every window of indices. Windows
// follow the sample alone and pieces are whole windows, so that the sums do not depend on where the indices are cut.
std::int64_t window_of(const Problem& problem, std::int64_t b) {
  const std::int64_t wanted = (64 + problem.kv_heads() - 1) / problem.kv_heads();
  return cut_indices(indices_of(problem.sample(b)), wanted, 2048, std::int64_t{1} << 31).length;
}

// Sums can go straight into an fp32 gradient when whole vectors of every tier fit its rows.
bool sums_in_place(const Problem& problem) { return problem.dtype() == DType::f32 && problem.dim() % 16 == 0; }

// Whether the blocks of a sample have more than few keys, on average.
bool large_blocks(const Sample& sample) { return sample.tokens() > few_keys * sample.partition->blocks(); }
// Rows of an item that copies them: fewer, down to 1024, where all threads together would hold more than 64 MB.
std::int64_t rows_copied(const Problem& problem, std::int64_t b, const Execution& execution) {
  const std::int64_t row = (2 * spread(problem.dim()) + padded(problem.dim())) * 4;
  const std::int64_t most = large_blocks(problem.sample(b)) ? 4608 : 2304;
  return std::clamp<std::int64_t>((std::int64_t{1} << 26) / (workers(execution) * row) / 64 * 64, 1024, most);
}
// Whether an item of so many rows of q does.
bool copies(const Tier& tier, const Problem& problem, std::int64_t b, const Execution& execution, std::int64_t rows) {
  return !in_tiles(tier, problem) && rows <= rows_copied(problem, b, execution);
}

Cut cut_backward(const Tier& tier, const Problem& problem, std::int64_t b, const Execution& execution) {
  const std::int64_t others = problem.batch() * problem.kv_heads(), threads = workers(execution);
  // Items that keep the threads busy: half as many, twice as long, where blocks are large and a cut costs no memory.
  const std::int64_t busy = (large_blocks(problem.sample(b)) && sums_in_place(problem) ? 2 : 4) * threads;
  const std::int64_t wanted = threads == 1 || others >= busy ? 1 : (busy + others - 1) / others;
  const std::int64_t indices = indices_of(problem.sample(b));
  const std::int64_t most = sums_in_place(problem) ? rows_copied(problem, b, execution) : std::int64_t{1} << 31;
  const Cut cut = cut_indices(indices, wanted, 1024, most);
  if (!in_tiles(tier, problem)) return cut;
  const std::int64_t window = window_of(problem, b), length = (cut.length + window - 1) / window * window;
  return {(indices + length - 1) / length, std::min(length, indices)};
}

// Item i of a sample: its key/value head and which of that head's items it is. Heads are taken in groups of `span`, and
// within a group all heads have their first item before any has its second, so that items of one head seldom wait.
struct Place {
  std::int64_t kv_head, link;
  std::int64_t previous;  // the item of the link before, relative to the sample
};
Place place_of(std::int64_t i, std::int64_t links, std::int64_t span, std::int64_t kv_heads) {
  const std::int64_t begin = i / (span * links) * span, count = std::min(span, kv_heads - begin);
  const std::int64_t rest = i - begin * links;
  return {begin + rest % count, rest / count, i - count};
}
std::int64_t last_item(std::int64_t kv_head, std::int64_t links, std::int64_t span, std::int64_t kv_heads) {
  const std::int64_t begin = kv_head / span * span, count = std::min(span, kv_heads - begin);
  return begin * links + (links - 1) * count + kv_head - begin;
}

struct Plan {
  std::vector<Cut> cuts;            // of each sample
  std::vector<std::int64_t> links;  // items of a key/value head of each sample
  std::vector<std::int64_t> begin;  // first item of each sample
  std::int64_t worker_bytes = 0;    // scratch of an item
  std::int64_t row_bytes = 0;       // its copies of q and dout; 0: none has any
  std::int64_t dq_bytes = 0;        // its fp32 sums of dq; 0: dq itself takes them
  bool kv_sums = false;             // unfinished dk and dv need fp32 memory of their own
  std::int64_t span = 1;            // key/value heads in a group
  std::int64_t slots = 0;           // those that may be unfinished at once: two groups
  std::int64_t slot_floats = 0;     // of dk, and as many of dv
  std::int64_t panel_slots = 0;     // those whose items may share panels at once: a group; 0: none does
  std::int64_t panel_floats = 0;    // of k and v together

  std::int64_t item_bytes() const { return worker_bytes + row_bytes + dq_bytes; }
  std::int64_t panel_bytes() const { return panel_slots * panel_floats * 4; }
};

Plan plan_backward(const Tier& tier, const Problem& problem, const Execution& execution) {
  Plan plan;
  const std::int64_t group = problem.heads() / problem.kv_heads(), width = padded(problem.dim());
  plan.begin.push_back(0);
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const Cut cut = cut_backward(tier, problem, b, execution);
    plan.cuts.push_back(cut);
    plan.links.push_back(cut.pieces > 1 ? group * cut.pieces : 1);
    plan.begin.push_back(plan.begin.back() + plan.links.back() * problem.kv_heads());
    const std::int64_t heads = cut.pieces > 1 ? 1 : group;
    plan.worker_bytes =
        std::max(plan.worker_bytes, in_tiles(tier, problem) ? tile_backward_scratch(problem.dim(), cut.length, heads)
                                                            : backward_scratch(problem.dim(), cut.length, heads));
    const std::int64_t bytes = aligned(heads * cut.length * width * 4);
    const bool copied = copies(tier, problem, b, execution, heads * cut.length);
    if (copied) plan.row_bytes = std::max(plan.row_bytes, 2 * aligned(heads * cut.length * spread(problem.dim()) * 4));
    if (copied || !sums_in_place(problem)) plan.dq_bytes = std::max(plan.dq_bytes, bytes);
    if (plan.links.back() > 2 && !in_tiles(tier, problem)) {
      plan.panel_floats = std::max(plan.panel_floats, panel_floats(problem, b));
    }
    if (problem.dtype() != DType::f32 && cut.pieces > 1) {
      plan.kv_sums = true;
      plan.slot_floats = std::max(plan.slot_floats, aligned(problem.sample(b).rows * width * 4) / 4);
    }
  }
  plan.span = std::min(workers(execution), problem.kv_heads());
  const std::int64_t pairs = problem.batch() * problem.kv_heads();
  if (plan.kv_sums) plan.slots = std::min(2 * plan.span, pairs);
  // One group's panels and no more: with two groups', what L3 held of them was gone when it was read (2 to 4 % slower).
  if (plan.panel_floats > 0 && plan.span * plan.panel_floats * 4 <= most_panel_bytes) plan.panel_slots = plan.span;
  return plan;
}

// The pieces of the key/value heads in item order: how many tiles each has left.
struct Turn {
  std::atomic<std::int64_t>* mine;  // null for none
  std::atomic<std::int64_t>* previous;
};

void wait(void* turn, std::int64_t tile) { wait_until(*static_cast<Turn*>(turn)->previous, tile + 1); }
void leave(void* turn, std::int64_t tile) {
  static_cast<Turn*>(turn)->mine->store(tile + 1, std::memory_order_release);
}

}  // namespace

std::int64_t attend_backward_scratch_bytes(const Tier& tier, const Problem& problem, const Execution& execution) {
  const Plan plan = plan_backward(tier, problem, execution);
  return workers(execution) * plan.item_bytes() + plan.slots * plan.slot_floats * 8 + plan.panel_bytes();
}

void attend_backward(const Tier& tier, const Problem& problem, const Selection* selection,
                     const BackwardTensors& tensors, const Execution& execution) {
  const Plan plan = plan_backward(tier, problem, execution);
  const std::int64_t items = plan.begin.back(), group = problem.heads() / problem.kv_heads();
  const Memory memory(workers(execution) * plan.item_bytes());
  const Memory sums(plan.slots * plan.slot_floats * 8), panels(plan.panel_bytes());
  std::vector<std::atomic<std::int64_t>> left(static_cast<std::size_t>(items));  // tiles each item has left
  std::vector<std::atomic<std::int64_t>> done(static_cast<std::size_t>(items));  // 1: all of the item is done
  for_items(execution, items, [&](std::int64_t i, std::int64_t worker) {
    const std::int64_t b = std::upper_bound(plan.begin.begin(), plan.begin.end(), i) - plan.begin.begin() - 1;
    const Cut cut = plan.cuts[b];
    const std::int64_t links = plan.links[b], kv_heads = problem.kv_heads();
    const Place place = place_of(i - plan.begin[b], links, plan.span, kv_heads);
    const std::int64_t g = place.kv_head, h = g * group + (links > 1 ? place.link / cut.pieces : 0);
    BackwardItem item{};
    // All items of a key/value head walk the same tiles.
    const Selection* picked = selection && !keeps_all(*selection, b, g * group, group) ? selection : nullptr;
    item.shape = shape_of(problem, b, picked);
    item.q = matrix(problem, tensors.q, b, h);
    item.k = matrix(problem, tensors.k, b, g);
    item.v = matrix(problem, tensors.v, b, g);
    item.out = matrix(problem, tensors.out, b, h);
    item.dout = matrix(problem, tensors.dout, b, h);
    item.dq = matrix(problem, tensors.dq, b, h);
    item.dk = matrix(problem, tensors.dk, b, g);
    item.dv = matrix(problem, tensors.dv, b, g);
    item.heads = links > 1 ? 1 : group;
    item.q_head = tensors.q.head_stride;
    item.out_head = tensors.out.head_stride;
    item.dout_head = tensors.dout.head_stride;
    item.dq_head = tensors.dq.head_stride;
    item.lse = static_cast<const float*>(matrix(problem, tensors.lse, b, h).data);
    item.lse_stride = tensors.lse.token_stride;
    item.lse_head = tensors.lse.head_stride;
    if (tensors.dlse) {
      item.dlse = static_cast<const float*>(matrix(problem, tensors.dlse, b, h).data);
      item.dlse_stride = tensors.dlse.token_stride;
      item.dlse_head = tensors.dlse.head_stride;
    }
    item.selection = picked ? picked->words_of(b, h, 0) : nullptr;
    item.first = place.link % cut.pieces * cut.length;
    item.last = std::min(item.first + cut.length, item.shape.indices());
    item.window = window_of(problem, b);
    item.begins = place.link == 0;
    item.ends = place.link + 1 == links;
    const std::int64_t pair = b * kv_heads + g;
    // Slots go round by key/value head; all that had this slot must be finished. One that needs none between them has
    // waited for nobody.
    const auto wait_for_slot = [&](std::int64_t slots) {
      for (std::int64_t before = pair - slots; item.begins && before >= 0; before -= slots) {
        const std::int64_t sample = before / kv_heads;
        const std::int64_t last =
            plan.begin[sample] + last_item(before % kv_heads, plan.links[sample], plan.span, kv_heads);
        wait_until(done[static_cast<std::size_t>(last)], 1);
      }
    };
    if (plan.panel_slots > 0 && links > 2) {
      wait_for_slot(plan.panel_slots);
      item.panels = reinterpret_cast<float*>(panels.data()) + pair % plan.panel_slots * plan.panel_floats;
    }
    if (plan.kv_sums) {
      wait_for_slot(plan.slots);
      item.dk_sum = reinterpret_cast<float*>(sums.data()) + (pair % plan.slots) * plan.slot_floats * 2;
      item.dv_sum = item.dk_sum + plan.slot_floats;
      item.dk_sum_stride = item.dv_sum_stride = padded(problem.dim());
    } else {  // fp32 gradients hold their own unfinished sums
      item.dk_sum = static_cast<float*>(item.dk.data);
      item.dv_sum = static_cast<float*>(item.dv.data);
      item.dk_sum_stride = item.dk.stride;
      item.dv_sum_stride = item.dv.stride;
    }
    char* scratch = memory.data() + worker * plan.item_bytes();
    item.scratch = scratch;
    const bool copied = copies(tier, problem, b, execution, item.heads * cut.length);
    if (copied) item.rows = reinterpret_cast<float*>(scratch + plan.worker_bytes);
    if (copied || !sums_in_place(problem)) {
      item.dq_sum = reinterpret_cast<float*>(scratch + plan.worker_bytes + plan.row_bytes);
    }
    Turn turn{&left[static_cast<std::size_t>(i)],
              item.begins ? nullptr : &left[static_cast<std::size_t>(plan.begin[b] + place.previous)]};
    item.turn = &turn;
    item.wait = wait;
    item.leave = leave;
    tier.attend_backward(item);
    done[static_cast<std::size_t>(i)].store(1, std::memory_order_release);
  });
}

}  // namespace vmoba::cpu
