// SPDX-License-Identifier: Apache-2.0
// Gates of one sample, tile by tile, and the budget that follows from a group's totals.
#include "cpu/select_sample.hpp"

#include <cmath>
#include <variant>

namespace vmoba::cpu {

SampleGates::SampleGates(const Problem& problem, const GateKernels& kernels, const ConstView& q, const ConstView& k,
                         std::int64_t b)
    : problem(&problem), kernels(&kernels), q(q), k(k), b(b), panels(nullptr) {
  const Partition& partition = *problem.sample(b).partition;
  tokens = partition.tokens();
  blocks = partition.blocks();
  strips = (blocks + gate_strip - 1) / gate_strip;
  tiles = (tokens + gate_rows - 1) / gate_rows;
  // At most 64 chunks, so that what is kept per chunk stays small; at least 512 rows, so that a chunk is worth a
  // switch.
  chunk_tiles = std::max<std::int64_t>(8, (tiles + 63) / 64);
  chunks = (tiles + chunk_tiles - 1) / chunk_tiles;
  own = partition.labels().data();
}

void SampleGates::means(std::int64_t block, std::int64_t g0, double* sums, float* mean) const {
  const std::int64_t dim = problem->dim(), g1 = std::min(g0 + mean_heads, problem->kv_heads());
  const Sample& sample = problem->sample(b);
  const auto list = sample.partition->tokens_of(block);
  const std::int64_t together = k.head_stride == dim ? g1 - g0 : 1;
  const std::int64_t last = block + 1 == blocks ? gate_strip : block % gate_strip + 1;
  for (std::int64_t g = g0; g < g1; g += together) {
    const auto* base =
        static_cast<const char*>(k.data) + problem->offset(k, b, sample.video_begin, g) * bytes_of(k.dtype);
    kernels->mean(base, static_cast<int>(k.dtype), k.token_stride, list.data(), static_cast<std::int64_t>(list.size()),
                  dim * together, sums, mean);
    for (std::int64_t i = 0; i < together; ++i) {
      float* const panel = panels + ((g + i) * strips + block / gate_strip) * dim * gate_strip;
      for (std::int64_t lane = block % gate_strip; lane < last; ++lane) {  // columns beyond N repeat the last block
        for (std::int64_t d = 0; d < dim; ++d) panel[d * gate_strip + lane] = mean[i * dim + d];
      }
    }
  }
}

void SampleGates::gates(std::int64_t h, const Rows& rows, std::int64_t strip, std::int64_t count, float* widened,
                        float* out) const {
  const std::int64_t dim = problem->dim();
  const std::int64_t element = problem->offset(q, b, problem->sample(b).video_begin + rows.first, h);
  const std::int64_t after = rows.first + rows.count, stride = q.token_stride * bytes_of(q.dtype);
  const bool ask = rows.step == 1 && strip + count == strips;  // tiles are mostly made one after another
  kernels->gates(
      {.q = rows.widened ? nullptr : static_cast<const char*>(q.data) + element * bytes_of(q.dtype),
       .dtype = static_cast<int>(q.dtype),
       .token_stride = q.token_stride * rows.step,
       .rows = rows.count,
       .dim = dim,
       .panels = panels + (problem->kv_head(h) * strips + strip) * dim * gate_strip,
       .strips = count,
       .widened = widened,
       .gates = out,
       .next = static_cast<const char*>(q.data) + element * bytes_of(q.dtype) + rows.count * stride,
       .next_rows = ask ? std::min(gate_rows, tokens - after) : 0,
       .next_stride = stride,
       .next_bytes = dim * bytes_of(q.dtype)});
}

void GroupTotals::add(const GroupTotals& other) {
  least = std::min(least, other.least);
  greatest = std::max(greatest, other.greatest);
  sum += other.sum;
  own_sum += other.own_sum;
  finite += other.finite;
  own_finite += other.own_finite;
  infinite += other.infinite;
  own_infinite += other.own_infinite;
}

void GroupTotals::add(float gate, bool own) {
  if (std::isfinite(gate)) {
    least = std::min(least, gate);
    greatest = std::max(greatest, gate);
    sum += gate;
    ++finite;
    own_sum += own ? gate : 0;
    own_finite += own;
  } else if (gate > 0) {
    ++infinite;
    own_infinite += own;
  }
}

Budget budget_of(const Policy& policy, std::int64_t queries, std::int64_t blocks, const GroupTotals& totals) {
  constexpr double eps = 1e-6;
  Budget budget;
  if (const auto* top = std::get_if<TopK>(&policy)) {
    budget.by_count = true;
    budget.all = top->k >= blocks;
    budget.count = (std::min(top->k, blocks) - 1) * queries;
    return budget;
  }
  const auto* rule = std::get_if<Threshold>(&policy);
  if (rule == nullptr || rule->tau >= 1) {  // the others never sum to all of T and eps
    budget.all = true;
    return budget;
  }
  if (totals.finite > 0) {
    budget.least = totals.least;
    budget.range = static_cast<double>(totals.greatest) - budget.least;
    if (budget.range <= eps) budget.range = 1;
  }
  const double own = budget.weight(totals.own_finite, totals.own_sum) + static_cast<double>(totals.own_infinite);
  const double total = budget.weight(totals.finite, totals.sum) + static_cast<double>(totals.infinite);
  budget.target = std::max(0.0, rule->tau - own / (total + eps)) * (total + eps);
  return budget;
}

}  // namespace vmoba::cpu
