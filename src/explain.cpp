// SPDX-License-Identifier: Apache-2.0
// What a call would do, without doing it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "text.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"

namespace vmoba {
namespace {

std::string group_words(Scope scope) {
  switch (scope) {
    case Scope::head:
      return "each head of each sample";
    case Scope::query:
      return "each query";
    case Scope::block:
      return "each block of each sample, over all heads";
    case Scope::all:
      return "each sample, over all heads";
  }
  return "";
}

template <class Rule>
std::string limits(const Rule& rule) {
  std::string text;
  if (rule.min_blocks > 1) text += ", at least " + number(rule.min_blocks) + " a query";
  if (rule.max_blocks) text += ", at most " + number(*rule.max_blocks) + " a query";
  return text;
}

std::string budget(const Problem& problem) {
  const std::int64_t blocks = problem.sample(0).partition->blocks();
  if (const auto* rule = std::get_if<Threshold>(&problem.policy())) {
    return "own blocks, then the best until " + number(rule->tau) + " of the sum of normalised gates of " +
           group_words(rule->scope) + limits(*rule);
  }
  if (const auto* rule = std::get_if<TopK>(&problem.policy())) {
    return number(std::min(rule->k, blocks)) + " of " + number(blocks) + " blocks a query on average over " +
           group_words(rule->scope) + ", own block counted" + limits(*rule);
  }
  return "all blocks of every query";
}

std::string quantity(double value, const char* unit) {
  const char* prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
  int i = 0;
  while (value >= 1000 && i < 6) value /= 1000, ++i;
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "%.*f %s%s", i == 0 ? 0 : 2, value, prefixes[i], unit);
  return buffer;
}

Explanation::Expected expected(const CostModel& costs, const Problem& problem, Direction direction,
                               std::int64_t threads) {
  Explanation::Expected out;
  out.time = predict(costs, problem, direction, threads);
  out.break_even_tokens = break_even_tokens(costs, problem, direction, threads);
  out.crossover_density = crossover_density(costs, problem, direction, threads);
  out.quicker = sparse_pays(costs, problem, direction, threads) ? "sparse" : "dense";
  return out;
}

std::string seconds(double value) {
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "%.3g %s",
                value < 1e-3 ? value * 1e6
                : value < 1  ? value * 1e3
                             : value,
                value < 1e-3 ? "us"
                : value < 1  ? "ms"
                             : "s");
  return buffer;
}

std::string expected_words(const Explanation::Expected& e) {
  char buffer[200];
  std::snprintf(buffer, sizeof buffer, "%s is quicker: dense %s, sparse %s (selection %s) at density %.3f",
                e.quicker.c_str(), seconds(e.time.dense).c_str(), seconds(e.time.sparse()).c_str(),
                seconds(e.time.select).c_str(), e.time.density);
  std::string text = buffer;
  text += "; break-even: " + (e.break_even_tokens ? number(*e.break_even_tokens) : "no number of") + " tokens, ";
  if (e.crossover_density <= 0) return text + "no density";
  std::snprintf(buffer, sizeof buffer, "density %.2f", e.crossover_density);
  return text + buffer;
}

// Broken at spaces so that text which begins at column `indent` stays within a terminal's 80 columns.
std::string hanging(const std::string& text, std::size_t indent) {
  constexpr std::size_t columns = 80;
  std::string out;
  std::size_t at = indent, begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::size_t word = end - begin;
    if (begin > 0 && at + 1 + word > columns) {
      out += "\n" + std::string(indent, ' ');
      at = indent;
    } else if (begin > 0) {
      out += ' ';
      ++at;
    }
    out += text.substr(begin, word);
    at += word;
    begin = end + 1;
  }
  return out;
}

}  // namespace

Explanation explain(const Problem& problem, const Execution& execution, const CostModel* costs) {
  Explanation e;
  for (const Backend& backend : backends()) {
    std::string reason = backend.unavailable();
    if (reason.empty()) reason = backend.why_not(problem);
    e.backends.push_back({std::string(backend.name), reason});
  }
  const Backend* chosen = nullptr;
  try {
    chosen = &choose_backend(problem, execution);
  } catch (const Error& error) {
    if (error.kind() != Error::Kind::unsupported) throw;
  }
  e.backend = chosen ? std::string(chosen->name) : "";
  e.scratch_bytes = chosen ? chosen->scratch_bytes(problem, execution) : 0;

  const Partition& first = *problem.sample(0).partition;
  e.tokens = first.tokens();
  e.rows = problem.sample(0).rows;
  e.blocks = first.blocks();
  e.smallest_block = first.smallest();
  e.largest_block = first.largest();
  e.policy = describe(problem.policy());
  e.budget = budget(problem);
  e.dense_flops = e.gate_flops = 0;
  const double width = static_cast<double>(problem.heads() * problem.dim());
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const double tokens = static_cast<double>(problem.sample(b).tokens());
    e.dense_flops += 4 * tokens * tokens * width;
    e.gate_flops += 2 * tokens * static_cast<double>(problem.sample(b).partition->blocks()) * width;
  }
  if (std::holds_alternative<Dense>(problem.policy())) e.gate_flops = 0;
  e.selection_bytes = Selection::word_count(problem) * 8;
  const CostModel& model = costs ? *costs : default_costs(e.backend);
  e.costs = model.backend;
  e.forward = expected(model, problem, Direction::forward, execution.threads);
  e.training = expected(model, problem, Direction::forward_backward, execution.threads);
  e.path = selects_all(problem) ? "dense: the policy keeps every block whatever the data" : "sparse";
  return e;
}

std::string to_text(const Explanation& e) {
  std::vector<std::pair<std::string, std::string>> lines{
      {"backend", e.backend.empty() ? "none takes this problem" : e.backend},
      {"path", e.path},
      {"tokens", number(e.tokens) + " video, " + number(e.rows - e.tokens) + " text"},
      {"blocks",
       number(e.blocks) + " of " +
           (e.smallest_block == e.largest_block ? number(e.largest_block)
                                                : number(e.smallest_block) + " to " + number(e.largest_block)) +
           " tokens"},
      {"policy", e.policy},
      {"budget", e.budget},
      {"dense attention", quantity(e.dense_flops, "FLOP") + " a forward"},
      {"gates", quantity(e.gate_flops, "FLOP")},
      {"selection", quantity(static_cast<double>(e.selection_bytes), "B")},
      {"scratch", quantity(static_cast<double>(e.scratch_bytes), "B")},
      {"expected time", "by the costs of " + e.costs},
      {"  forward", expected_words(e.forward)},
      {"  with backward", expected_words(e.training)},
  };
  for (const Explanation::Refusal& refusal : e.backends) {
    lines.push_back({"  " + refusal.backend, refusal.reason.empty() ? "takes it" : refusal.reason});
  }
  std::size_t width = 0;
  for (const auto& [label, text] : lines) width = std::max(width, label.size());
  std::string result;
  for (const auto& [label, text] : lines)
    result += label + std::string(width + 2 - label.size(), ' ') + hanging(text, width + 2) + "\n";
  return result;
}

}  // namespace vmoba
