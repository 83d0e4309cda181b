// SPDX-License-Identifier: Apache-2.0
// Comparing a backend's selection with reference: every pair outside the tie band must agree.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "reference/reference.hpp"
#include "tensors.hpp"

namespace vmoba::test {

struct SelectionDifference {
  std::int64_t pairs = 0;    // compared
  std::int64_t in_band = 0;  // differ, and rounding may flip them
  std::int64_t wrong = 0;    // differ, and nothing excuses them
  std::string first_wrong;   // "" when none
};

// Whether the finite gates of a group come from the same numbers, so that they are equal in any arithmetic.
inline bool same_operands(const Problem& p, const ConstView& q, const ConstView& k, std::int64_t b,
                          const reference::Trace& trace, std::int64_t group) {
  const Sample& sample = p.sample(b);
  const std::int64_t blocks = sample.partition->blocks(), dim = p.dim();
  std::vector<double> first_row, first_mean;
  for (std::int64_t h = 0; h < p.heads(); ++h) {
    const std::vector<double> means = reference::block_means(p, k, b, p.kv_head(h));
    for (std::int64_t s = 0; s < sample.tokens(); ++s) {
      const auto row = reference::read_row(p, q, b, sample.video_begin + s, h, dim);
      for (std::int64_t c = 0; c < blocks; ++c) {
        if (reference::group_of(p, b, h, s, c) != group || !std::isfinite(trace.gates[h][s * blocks + c])) continue;
        const std::vector<double> mean(means.begin() + c * dim, means.begin() + (c + 1) * dim);
        const std::vector<double> numbers(row.begin(), row.end());
        if (first_row.empty()) first_row = numbers, first_mean = mean;
        if (numbers != first_row || mean != first_mean) return false;
      }
    }
  }
  return true;
}

// The band of a pair with gate g (spec section 3): |g - cut| <= 1e-5 (M - m), or the rounding bound of an fp32 gate,
//   bound = 2 (D + 4) u sum |q_d kbar_d| + 8 u sum |q_d| mean|k_d|,  u = 2^-24,
// where cut is the gate of the last pair taken. Sums that decide a cut carry the same rounding, so the cut is also
// taken with r moved by (1e-6 + bound / (M - m)) T either way; a cut is thus an interval, most often of one number.
// With floors and caps a query's own cut counts too. Where the bound of one gate exceeds the range of its group, from
// keys of 1e25 that cancel, that gate may be anything in fp32 and with it M, m and the cut: only own pairs are judged.
// The same where M - m is at most 1e-6, which counts as 1, and rounding may lift it above that: equal gates from
// different operands, say. q and k as given to select.
inline SelectionDifference selection_difference(const Problem& p, const Tensor& q, const Tensor& k,
                                                const Selection& actual) {
  SelectionDifference result;
  if (std::holds_alternative<Dense>(p.policy())) {
    Selection all(p);
    all.fill(true);
    if (!(actual == all)) result.wrong = 1, result.first_wrong = "not everything is selected";
    return result;
  }
  constexpr double u = 0x1p-24;
  const ConstView qv = p.resolve(q.view(), p.heads(), p.dim()), kv = p.resolve(k.view(), p.kv_heads(), p.dim());
  Selection expected(p), moved(p);
  const auto [floor, cap, rule_scope] = std::visit(
      [](const auto& rule) -> std::tuple<std::int64_t, std::optional<std::int64_t>, Scope> {
        if constexpr (requires { rule.scope; }) {
          return {rule.min_blocks, rule.max_blocks, rule.scope};
        } else {
          return {1, {}, Scope::head};
        }
      },
      p.policy());
  const bool row_cuts = floor > 1 || cap;
  const Scope scope = rule_scope;  // clang 14 captures no structured bindings

  for (std::int64_t b = 0; b < p.batch(); ++b) {
    const Sample& sample = p.sample(b);
    const Partition& partition = *sample.partition;
    const std::int64_t tokens = sample.tokens(), blocks = partition.blocks(), dim = p.dim();
    const reference::Trace trace = reference::select_sample(p, qv, kv, b, expected);

    std::vector<std::vector<double>> bounds(p.heads());
    std::vector<double> group_bound(trace.cuts.size(), 0);
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      const std::int64_t g = p.kv_head(h);
      const std::vector<double> means = reference::block_means(p, kv, b, g);
      std::vector<double> sizes(blocks * dim, 0);  // mean |k|
      for (std::int64_t c = 0; c < blocks; ++c) {
        for (std::int32_t s : partition.tokens_of(c)) {
          const auto row = reference::read_row(p, kv, b, sample.video_begin + s, g, dim);
          for (std::int64_t d = 0; d < dim; ++d) sizes[c * dim + d] += std::abs(row[d]) / partition.size(c);
        }
      }
      bounds[h].resize(tokens * blocks);
      for (std::int64_t s = 0; s < tokens; ++s) {
        const auto row = reference::read_row(p, qv, b, sample.video_begin + s, h, dim);
        for (std::int64_t c = 0; c < blocks; ++c) {
          double products = 0, magnitudes = 0;
          for (std::int64_t d = 0; d < dim; ++d) {
            products += std::abs(row[d] * means[c * dim + d]);
            magnitudes += std::abs(row[d]) * sizes[c * dim + d];
          }
          const double bound = 2 * static_cast<double>(dim + 4) * u * products + 8 * u * magnitudes;
          bounds[h][s * blocks + c] = bound;
          double& most = group_bound[reference::group_of(p, b, h, s, c)];
          if (bound > most) most = bound;
        }
      }
    }

    std::vector<double> low(trace.cuts.size()), high(trace.cuts.size()), shares(trace.cuts.size(), 0);
    for (std::size_t i = 0; i < trace.cuts.size(); ++i) {
      const double range = trace.cuts[i].max - trace.cuts[i].min;
      low[i] = high[i] = trace.cuts[i].last_taken;
      if (range > 1e-6) shares[i] = std::min(1e-3, 1e-6 + group_bound[i] / range);
    }
    if (std::holds_alternative<Threshold>(p.policy())) {
      for (int way : {1, -1}) {
        const reference::Trace other = reference::select_sample(p, qv, kv, b, moved, shares);
        for (std::size_t i = 0; i < other.cuts.size(); ++i) {
          low[i] = std::min(low[i], other.cuts[i].last_taken);
          high[i] = std::max(high[i], other.cuts[i].last_taken);
          shares[i] *= -way;
        }
      }
    }

    const auto gate_of = [&](std::int64_t h, std::int64_t s, std::int64_t c) {
      const double gate = trace.gates[h][s * blocks + c];
      return std::isnan(gate) ? -std::numeric_limits<double>::infinity() : gate;
    };
    std::vector<std::optional<bool>> opened(trace.cuts.size());  // operands are compared once a group
    const auto open = [&](std::int64_t group) -> bool {
      if (opened[group]) return *opened[group];
      const double range = trace.cuts[group].max - trace.cuts[group].min;
      opened[group] = range > 1e-6
                          ? group_bound[group] > range
                          : range + 2 * group_bound[group] > 1e-6 && !same_operands(p, qv, kv, b, trace, group);
      return *opened[group];
    };
    const auto in_group_band = [&](std::int64_t h, std::int64_t s, std::int64_t c) {
      if (c == partition.own(s)) return false;
      const std::int64_t group = reference::group_of(p, b, h, s, c);
      if (open(group)) return true;
      const double range = trace.cuts[group].max - trace.cuts[group].min;
      const double band = std::max(1e-5 * range, bounds[h][s * blocks + c]), gate = gate_of(h, s, c);
      return gate >= low[group] - band && gate <= high[group] + band;
    };
    const auto in_row_band = [&](std::int64_t h, std::int64_t s, std::int64_t c) {
      if (!row_cuts || c == partition.own(s)) return false;
      for (std::int64_t other = 0; other < blocks; ++other) {
        if (other == partition.own(s) || other == c) continue;
        const double band = std::max(bounds[h][s * blocks + c], bounds[h][s * blocks + other]);
        if (expected.test(b, h, s, other) != expected.test(b, h, s, c) &&
            std::abs(gate_of(h, s, other) - gate_of(h, s, c)) <= band) {
          return true;
        }
        // Scope block cuts a row's pairs apart; one of them in its band moves the floor or the cap of the whole row.
        if (scope == Scope::block && in_group_band(h, s, other)) return true;
      }
      return false;
    };
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      for (std::int64_t s = 0; s < tokens; ++s) {
        for (std::int64_t c = 0; c < blocks; ++c) {
          ++result.pairs;
          const bool want = expected.test(b, h, s, c);
          if (actual.test(b, h, s, c) == want) continue;
          if (in_group_band(h, s, c) || in_row_band(h, s, c)) {
            result.in_band += !open(reference::group_of(p, b, h, s, c));
            continue;
          }
          if (++result.wrong > 1) continue;
          const reference::Cut& cut = trace.cuts[reference::group_of(p, b, h, s, c)];
          std::ostringstream text;
          text << "sample " << b << " head " << h << " token " << s << " block " << c
               << (want ? " is missing" : " is too much") << ": gate " << gate_of(h, s, c) << ", last taken "
               << cut.last_taken << ", first left " << cut.first_left << ", range " << cut.min << ".." << cut.max;
          result.first_wrong = text.str();
        }
      }
    }
  }
  return result;
}

// "" when actual equals reference outside the tie band and few pairs differ inside it, else a sentence. Exact ties are
// no excuse to differ often: their order is part of the rule.
inline std::string check_selection(const Problem& p, const Tensor& q, const Tensor& k, const Selection& actual) {
  const SelectionDifference d = selection_difference(p, q, k, actual);
  std::ostringstream text;
  if (d.wrong > 0) {
    text << d.wrong << " of " << d.pairs << " pairs are wrong (" << d.in_band
         << " more lie in the tie band): " << d.first_wrong;
  } else if (d.in_band > 8 + d.pairs / 1000) {
    text << d.in_band << " of " << d.pairs << " pairs differ inside the tie band, too many for rounding";
  }
  return text.str();
}

}  // namespace vmoba::test
