// SPDX-License-Identifier: Apache-2.0
// A model of what attention costs on a machine: predicted seconds, the number of tokens and the density at which dense
// attention is as quick. Decides nothing by itself: attention and attend always compute what was asked; a Schedule with
// automatic min_tokens, and explain, look at it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "vmoba/policy.hpp"
#include "vmoba/problem.hpp"

namespace vmoba {

// Which part of a call is meant: at sampling the forward counts, in training both.
enum class Direction : std::uint8_t { forward, forward_backward };

// Seconds of one thread a unit of work; call: seconds of a whole call, whatever the threads. A prediction is linear in
// the coefficients. Units are counted over all samples and heads:
//   flop   multiply-adds of attention, 2 each: 4 D a pair forward, 10 D backward (gates: 2 D a query and block)
//   pair   query-key pairs (select: query-block pairs)
//   visit  a query row at a key tile: blocks are worked on in tiles of at most 128 keys
//   token  key rows packed (select: query and key rows read; dense: query rows), times D
struct CostModel {
  struct Dense {
    double flop = 0, pair = 0, token = 0, call = 0;
    bool operator==(const Dense&) const = default;
  };
  struct Sparse {
    double flop = 0, pair = 0, visit = 0, token = 0, call = 0;
    bool operator==(const Sparse&) const = default;
  };
  struct Select {
    double flop = 0, pair_head = 0, pair_query = 0, pair_block = 0, pair_all = 0, token = 0, call = 0;
    bool operator==(const Select&) const = default;
  };
  std::string backend;                  // whose costs these are: "cpu:skylake"
  Dense dense_forward, dense_backward;  // the best dense attention of the machine, not always this library's
  Sparse sparse_forward, sparse_backward;
  Select select;
  bool operator==(const CostModel&) const = default;
};

// Calls f(name, coefficient) for every coefficient; names are those of the file, "sparse.forward.visit".
template <class Model, class F>
void visit_coefficients(Model& m, F&& f) {
  const auto dense = [&](const std::string& name, auto& d) {
    f(name + ".flop", d.flop), f(name + ".pair", d.pair), f(name + ".token", d.token), f(name + ".call", d.call);
  };
  const auto sparse = [&](const std::string& name, auto& s) {
    f(name + ".flop", s.flop), f(name + ".pair", s.pair), f(name + ".visit", s.visit), f(name + ".token", s.token);
    f(name + ".call", s.call);
  };
  dense("dense.forward", m.dense_forward), dense("dense.backward", m.dense_backward);
  sparse("sparse.forward", m.sparse_forward), sparse("sparse.backward", m.sparse_backward);
  f("select.flop", m.select.flop), f("select.pair.head", m.select.pair_head);
  f("select.pair.query", m.select.pair_query), f("select.pair.block", m.select.pair_block);
  f("select.pair.all", m.select.pair_all), f("select.token", m.select.token), f("select.call", m.select.call);
}

// The costs built in for a backend ("cpu:haswell"), measured on one machine by `vmoba bench --fit`. A backend without
// figures of its own has those of the nearest that was measured. Only their ratios matter to a decision.
const CostModel& default_costs(std::string_view backend);

// The file that `vmoba bench --fit --out` writes: a line "vmoba-cost 1", then lines "name value", ended by \n or \r\n.
// parse_costs treats the text as hostile and throws Error (kind file) naming `name` and the line: unknown, repeated or
// missing names, values that are not finite or negative, more than 64 KB.
std::string to_text(const CostModel& costs);
CostModel parse_costs(std::string_view text, const std::string& name);

// The density that the policy of the problem will give about: for Threshold the spec's table over tau (section 3), for
// TopK k of N blocks; never less than the own block's share, never more than 1; floors and caps counted.
double expected_density(const Problem& problem);

struct Prediction {
  double density = 1;
  double select = 0, attend = 0;  // seconds; attend forward, or forward and backward
  double dense = 0;
  double sparse() const { return select + attend; }
};
// threads >= 1. density 0..1 or, left out, the expected one. Throws Error (kind argument).
Prediction predict(const CostModel& costs, const Problem& problem, Direction direction, std::int64_t threads = 1,
                   std::optional<double> density = {});

// The fewest tokens from which sparse attention is quicker, at every larger grid too: grids of one sample with as many
// blocks as the problem's first, each of equal size, at the problem's expected density. Nothing: it never is.
std::optional<std::int64_t> break_even_tokens(const CostModel& costs, const Problem& problem, Direction direction,
                                              std::int64_t threads = 1);
// Whether sparse attention at the expected density is predicted to be quicker than dense, selection included. False for
// a policy that keeps everything.
bool sparse_pays(const CostModel& costs, const Problem& problem, Direction direction, std::int64_t threads = 1);
// The density above which dense attention is quicker for this problem. 0: at every density; 1: at none below 1.
double crossover_density(const CostModel& costs, const Problem& problem, Direction direction, std::int64_t threads = 1);

}  // namespace vmoba
