// SPDX-License-Identifier: Apache-2.0
// Interleaved timing: every contender runs once a round, so that a slow minute of the machine hits all of them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace vmoba::tools {

struct Times {
  std::vector<double> seconds;  // one a round
  double median() const;
  double fastest() const;
  double slowest() const;
  double spread() const;  // (third quartile - first quartile) / median
};

// One contender over another. Both have run in the same rounds: the median of the rounds' ratios, so that a slow minute
// of the machine falls out; else (one of them was measured once) the ratio of the medians.
struct Ratio {
  double value = 0;
  double spread = 0;  // interquartile range of the rounds' ratios over value; 0: one measurement
};
Ratio ratio(const Times& over, const Times& under);

struct Contender {
  std::string name;
  std::function<void()> run;
  std::function<void()> before{};  // of every run, not timed
  Times times{};
};

struct Rounds {
  double seconds = 50;  // the budget of all rounds; at least least rounds are run whatever it says
  std::int64_t least = 3, most = 9;
  // A contender whose warm-up took this many times the fastest of its rival group is measured once only.
  double hopeless = 4;
};

// The part of each contender's name before ":", or the whole: the usual rival groups.
std::vector<std::string> groups_of(const std::vector<Contender>& contenders);

// One warm-up of each (not counted unless the contender is hopeless), then rounds. group tells which contenders are
// rivals. tick is called after every run with a line for a progress bar.
void measure_rounds(std::vector<Contender>& contenders, const std::vector<std::string>& group, const Rounds& rounds,
                    const std::function<void(const std::string&)>& tick);

}  // namespace vmoba::tools
