// SPDX-License-Identifier: Apache-2.0
// Interleaved timing.
#include "tools/bench/measure.hpp"

#include <algorithm>
#include <chrono>
#include <map>

namespace vmoba::tools {

namespace {

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(place);
  const auto high = std::min(low + 1, values.size() - 1);
  return values[low] + (values[high] - values[low]) * (place - static_cast<double>(low));
}

double timed(const Contender& one) {
  if (one.before) one.before();
  const auto start = std::chrono::steady_clock::now();
  one.run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double Times::median() const { return quantile(seconds, 0.5); }
double Times::fastest() const { return quantile(seconds, 0); }
double Times::slowest() const { return quantile(seconds, 1); }
double Times::spread() const {
  const double middle = median();
  return middle > 0 ? (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / middle : 0;
}

Ratio ratio(const Times& over, const Times& under) {
  const std::size_t rounds = over.seconds.size();
  if (rounds != under.seconds.size() || rounds < 2) return {over.median() / under.median(), 0};
  Times ratios;
  for (std::size_t i = 0; i < rounds; ++i) ratios.seconds.push_back(over.seconds[i] / under.seconds[i]);
  return {ratios.median(), ratios.spread()};
}

std::vector<std::string> groups_of(const std::vector<Contender>& contenders) {
  std::vector<std::string> out;
  for (const Contender& one : contenders) out.push_back(one.name.substr(0, one.name.find(':')));
  return out;
}

void measure_rounds(std::vector<Contender>& contenders, const std::vector<std::string>& group, const Rounds& rounds,
                    const std::function<void(const std::string&)>& tick) {
  std::vector<double> first(contenders.size());
  std::map<std::string, double> best;
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    first[i] = timed(contenders[i]);
    tick(contenders[i].name);
    const auto [place, fresh] = best.emplace(group[i], first[i]);
    if (!fresh) place->second = std::min(place->second, first[i]);
  }
  std::vector<bool> again(contenders.size(), true);
  double round_seconds = 0;
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    if (first[i] > rounds.hopeless * best[group[i]]) {
      again[i] = false;
      contenders[i].times.seconds.push_back(first[i]);
    } else {
      round_seconds += first[i];
    }
  }
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t round = 0; round < rounds.most; ++round) {
    const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (round >= rounds.least && passed + round_seconds > rounds.seconds) break;
    for (std::size_t n = 0; n < contenders.size(); ++n) {
      // Each round starts with another contender: nobody always runs after the same neighbour's heat.
      const std::size_t i = (n + static_cast<std::size_t>(round)) % contenders.size();
      if (!again[i]) continue;
      contenders[i].times.seconds.push_back(timed(contenders[i]));
      tick(contenders[i].name);
    }
  }
}

}  // namespace vmoba::tools
