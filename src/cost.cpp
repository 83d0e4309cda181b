// SPDX-License-Identifier: Apache-2.0
// What attention costs: features of a problem times coefficients of a machine.
#include "vmoba/cost.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "text.hpp"
#include "vmoba/attention.hpp"
#include "vmoba/error.hpp"

namespace vmoba {
namespace {

constexpr double tile = 128;  // keys

// One sample of a problem in numbers that need not be whole.
struct Shape {
  double tokens, text, blocks, heads, kv_heads, dim;
  double rows() const { return tokens + text; }
};

Shape shape_of(const Problem& problem, std::int64_t b) {
  const Sample& sample = problem.sample(b);
  return {static_cast<double>(sample.tokens()),
          static_cast<double>(sample.text_valid),
          static_cast<double>(sample.partition->blocks()),
          static_cast<double>(problem.heads()),
          static_cast<double>(problem.kv_heads()),
          static_cast<double>(problem.dim())};
}

double dense_seconds(const CostModel::Dense& c, double flops_of_pair, const Shape& s, double threads) {
  const double pairs = s.rows() * s.rows() * s.heads;
  return (pairs * (c.flop * flops_of_pair * s.dim + c.pair) + s.rows() * s.heads * s.dim * c.token) / threads;
}

double sparse_seconds(const CostModel::Sparse& c, double flops_of_pair, const Shape& s, double density,
                      double threads) {
  const double with_text = 2 * s.tokens * s.text + s.text * s.text;
  const double pairs = (density * s.tokens * s.tokens + with_text) * s.heads;
  const double tiles = s.blocks * std::ceil(s.tokens / s.blocks / tile);
  const double visits = (density * s.tokens * tiles + with_text / tile) * s.heads;
  const double packed = s.rows() * s.kv_heads * s.dim;
  return (pairs * (c.flop * flops_of_pair * s.dim + c.pair) + visits * c.visit + packed * c.token) / threads;
}

double select_seconds(const CostModel::Select& c, Scope scope, const Shape& s, double threads) {
  const double pairs = s.tokens * s.blocks * s.heads;
  const double a_pair = scope == Scope::head    ? c.pair_head
                        : scope == Scope::query ? c.pair_query
                        : scope == Scope::block ? c.pair_block
                                                : c.pair_all;
  const double read = s.tokens * (s.heads + s.kv_heads) * s.dim;
  return (pairs * (c.flop * 2 * s.dim + a_pair) + read * c.token) / threads;
}

std::optional<Scope> scope_of(const Policy& policy) {
  return std::visit(
      [](const auto& rule) -> std::optional<Scope> {
        if constexpr (requires { rule.scope; }) {
          return rule.scope;
        } else {
          return {};
        }
      },
      policy);
}

// Sums over samples come in as shapes; calls are counted once.
Prediction predict_shapes(const CostModel& costs, const std::vector<Shape>& shapes, const Policy& policy,
                          Direction direction, std::int64_t threads, double density) {
  if (threads < 1) throw_argument("threads", number(threads), "is not a number of threads", "use 1 or more");
  if (!(density >= 0 && density <= 1)) throw_argument("density", number(density), "is outside 0..1", "use a share");
  const bool both = direction == Direction::forward_backward;
  const auto workers = static_cast<double>(threads);
  const std::optional<Scope> scope = scope_of(policy);
  Prediction out;
  out.density = density;
  out.attend = costs.sparse_forward.call + (both ? costs.sparse_backward.call : 0);
  out.dense = costs.dense_forward.call + (both ? costs.dense_backward.call : 0);
  out.select = scope ? costs.select.call : 0;
  for (const Shape& s : shapes) {
    out.attend += sparse_seconds(costs.sparse_forward, 4, s, density, workers);
    out.dense += dense_seconds(costs.dense_forward, 4, s, workers);
    if (both) {
      out.attend += sparse_seconds(costs.sparse_backward, 10, s, density, workers);
      out.dense += dense_seconds(costs.dense_backward, 10, s, workers);
    }
    if (scope) out.select += select_seconds(costs.select, *scope, s, workers);
  }
  return out;
}

std::vector<Shape> shapes_of(const Problem& problem) {
  std::vector<Shape> shapes;
  for (std::int64_t b = 0; b < problem.batch(); ++b) shapes.push_back(shape_of(problem, b));
  return shapes;
}

double density_of_policy(const Policy& policy, double blocks) {
  if (const auto* rule = std::get_if<Threshold>(&policy)) {
    // Densities of the paper's block counts over tau (spec section 3); a straight line between, everything from 1 on.
    constexpr std::array<std::pair<double, double>, 6> points{
        {{0, 0}, {0.15, 0.13}, {0.25, 0.19}, {0.35, 0.27}, {0.5, 0.39}, {1, 1}}};
    double density = 1;
    for (std::size_t i = 1; i < points.size(); ++i) {
      const auto [x0, y0] = points[i - 1];
      const auto [x1, y1] = points[i];
      if (rule->tau > x1) continue;
      density = y0 + (y1 - y0) * (rule->tau - x0) / (x1 - x0);
      break;
    }
    density = std::max(density, static_cast<double>(rule->min_blocks) / blocks);
    if (rule->max_blocks) density = std::min(density, static_cast<double>(*rule->max_blocks) / blocks);
    return std::clamp(density, 1 / blocks, 1.0);
  }
  if (const auto* rule = std::get_if<TopK>(&policy)) {
    double kept = static_cast<double>(std::max(rule->k, rule->min_blocks));
    if (rule->max_blocks) kept = std::min(kept, static_cast<double>(*rule->max_blocks));
    return std::clamp(kept / blocks, 1 / blocks, 1.0);
  }
  return 1;
}

}  // namespace

double expected_density(const Problem& problem) {
  double kept = 0, pairs = 0;
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const Shape s = shape_of(problem, b);
    kept += s.tokens * s.tokens * density_of_policy(problem.policy(), s.blocks);
    pairs += s.tokens * s.tokens;
  }
  return kept / pairs;
}

Prediction predict(const CostModel& costs, const Problem& problem, Direction direction, std::int64_t threads,
                   std::optional<double> density) {
  return predict_shapes(costs, shapes_of(problem), problem.policy(), direction, threads,
                        density.value_or(expected_density(problem)));
}

std::optional<std::int64_t> break_even_tokens(const CostModel& costs, const Problem& problem, Direction direction,
                                              std::int64_t threads) {
  const Shape first = shape_of(problem, 0);
  const double density = density_of_policy(problem.policy(), first.blocks);
  if (density >= 1) return {};
  const auto loses = [&](double tokens) {
    Shape s = first;
    s.tokens = tokens;
    s.blocks = std::min(first.blocks, tokens);
    const Prediction p = predict_shapes(costs, {s}, problem.policy(), direction, threads, density);
    return p.sparse() >= p.dense;
  };
  // From large to small in steps of 2 %, which is finer than any measurement.
  constexpr double most = 1 << 24;
  if (loses(most)) return {};
  double tokens = most;
  while (tokens > 1 && !loses(std::floor(tokens / 1.02))) tokens = std::floor(tokens / 1.02);
  return static_cast<std::int64_t>(tokens);
}

bool sparse_pays(const CostModel& costs, const Problem& problem, Direction direction, std::int64_t threads) {
  const Prediction p = predict(costs, problem, direction, threads);
  return !selects_all(problem) && p.sparse() < p.dense;
}

double crossover_density(const CostModel& costs, const Problem& problem, Direction direction, std::int64_t threads) {
  // Linear in the density: two points are enough.
  const Prediction none = predict(costs, problem, direction, threads, 0.0);
  const Prediction all = predict(costs, problem, direction, threads, 1.0);
  const double slope = all.sparse() - none.sparse(), room = none.dense - none.sparse();
  if (room <= 0) return 0;
  return slope <= room ? 1 : room / slope;
}

std::string to_text(const CostModel& costs) {
  std::string out = "vmoba-cost 1\nbackend " + costs.backend + "\n";
  visit_coefficients(costs, [&](const std::string& name, double value) { out += name + " " + number(value) + "\n"; });
  return out;
}

CostModel parse_costs(std::string_view text, const std::string& name) {
  const std::string way_out = "write it anew with vmoba bench --fit --out FILE";
  if (text.size() > 65536) throw_file(name, "is larger than 64 KB and holds no costs", way_out);
  CostModel costs;
  std::set<std::string> seen;
  std::int64_t line_number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string line(text.substr(0, end));
    if (end < text.size() && line.ends_with('\r')) line.pop_back();  // what an editor on Windows ends lines with
    text.remove_prefix(std::min(end + 1, text.size()));
    ++line_number;
    if (line_number == 1) {
      if (line != "vmoba-cost 1") throw_file(name, "does not begin with vmoba-cost 1", way_out);
      continue;
    }
    if (line.empty()) continue;
    const std::string where = "line " + number(line_number);
    const std::size_t space = std::min(line.find(' '), line.size());
    const std::string key = line.substr(0, space), value = line.substr(std::min(space + 1, line.size()));
    if (!seen.insert(key).second) throw_file(name, where + " repeats an earlier name", way_out);
    if (key == "backend") {
      const auto plain = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == ':' || c == '_';
      };
      if (value.empty() || value.size() > 40 || !std::all_of(value.begin(), value.end(), plain))
        throw_file(name, where + " names no backend", way_out);
      costs.backend = value;
      continue;
    }
    bool known = false;
    visit_coefficients(costs, [&](const std::string& coefficient, double& target) {
      if (coefficient != key) return;
      known = true;
      const auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), target);
      // A second a unit of work is beyond any machine; the bound keeps every product finite.
      if (error != std::errc{} || stop != value.data() + value.size() || !(target >= 0 && target <= 1))
        throw_file(name, where + " gives " + coefficient + " no number of seconds in 0..1", way_out);
    });
    if (!known) throw_file(name, where + " is no coefficient", way_out);
  }
  if (line_number == 0) throw_file(name, "is empty", way_out);
  if (!seen.contains("backend")) throw_file(name, "lacks backend", way_out);
  visit_coefficients(costs, [&](const std::string& coefficient, double) {
    if (!seen.contains(coefficient)) throw_file(name, "lacks " + coefficient, way_out);
  });
  if (costs.dense_forward.flop <= 0 || costs.sparse_forward.flop <= 0)
    throw_file(name, "says that attention costs nothing", way_out);
  return costs;
}

}  // namespace vmoba
