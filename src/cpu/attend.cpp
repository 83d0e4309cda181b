// SPDX-License-Identifier: Apache-2.0
// attend: a problem cut into items, and the memory they work in.
#include "cpu/attend.hpp"

#include <algorithm>
#include <cstdint>

#include "cpu/memory.hpp"
#include "cpu/parallel.hpp"
#include "cpu/plan.hpp"
#include "cpu/tile_item.hpp"

namespace vmoba::cpu {
namespace {

// A row's result does not depend on where the indices are cut, so the cut may follow the threads and the blocks. An
// item packs every key tile once and keeps its fp32 rows of q and out, 1 KB each at D 128: with small blocks the rows
// are what moves and should stay in L2; with larger ones packing is what costs.
Cut cut_attend(const Problem& problem, std::int64_t b, const Execution& execution) {
  const std::int64_t others = problem.batch() * problem.heads(), threads = workers(execution);
  const Partition& keys = *problem.sample(b).partition;
  const std::int64_t most = keys.tokens() <= 32 * keys.blocks() ? 1024 : 3072;
  return cut_indices(indices_of(problem.sample(b)), threads > 1 ? (4 * threads + others - 1) / others : 1, 512, most);
}

std::int64_t worker_bytes(const Tier& tier, const Problem& problem, const Execution& execution) {
  std::int64_t bytes = 0;
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const std::int64_t length = cut_attend(problem, b, execution).length;
    bytes = std::max(bytes, tier.tiles && problem.dtype() == DType::bf16 ? tile_attend_scratch(problem.dim(), length)
                                                                         : attend_scratch(problem.dim(), length));
  }
  return bytes;
}

}  // namespace

std::int64_t attend_scratch_bytes(const Tier& tier, const Problem& problem, const Execution& execution) {
  return workers(execution) * worker_bytes(tier, problem, execution);
}

void attend(const Tier& tier, const Problem& problem, const Selection* selection, const ConstView& q,
            const ConstView& k, const ConstView& v, const View& out, const View& lse, const Execution& execution) {
  std::vector<std::int64_t> begin{0};  // first item of each sample
  std::vector<Cut> cuts;
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    cuts.push_back(cut_attend(problem, b, execution));
    begin.push_back(begin.back() + cuts.back().pieces * problem.heads());
  }
  const std::int64_t bytes = worker_bytes(tier, problem, execution);
  const Memory memory(workers(execution) * bytes);
  for_items(execution, begin.back(), [&](std::int64_t i, std::int64_t worker) {
    const std::int64_t b = std::upper_bound(begin.begin(), begin.end(), i) - begin.begin() - 1;
    const std::int64_t h = (i - begin[b]) / cuts[b].pieces, piece = (i - begin[b]) % cuts[b].pieces;
    const std::int64_t kv_head = problem.kv_head(h);
    AttendItem item{};
    const Selection* picked = selection && !keeps_all(*selection, b, h, 1) ? selection : nullptr;
    item.shape = shape_of(problem, b, picked);
    item.q = matrix(problem, q, b, h);
    item.k = matrix(problem, k, b, kv_head);
    item.v = matrix(problem, v, b, kv_head);
    item.out = matrix(problem, out, b, h);
    if (lse) item.lse = static_cast<float*>(matrix(problem, lse, b, h).data);
    item.lse_stride = lse.token_stride;
    item.selection = picked ? picked->words_of(b, h, 0) : nullptr;
    item.first = piece * cuts[b].length;
    item.last = std::min(item.first + cuts[b].length, item.shape.indices());
    item.clears = piece == 0;
    item.scratch = memory.data() + worker * bytes;
    tier.attend(item);
  });
}

}  // namespace vmoba::cpu
