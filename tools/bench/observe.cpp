// SPDX-License-Identifier: Apache-2.0
// The shapes that the cost model is fitted on, and their times. Of sixteen tokens nearly all is the cost of a call:
// without them a disturbed machine left it to chance, and a fit could say that sparse wins from one token on.
#include "tools/bench/contenders.hpp"
#include "tools/bench/fit.hpp"
#include "tools/bench/measure.hpp"
#include "torch/spec.hpp"

namespace vmoba::tools {

namespace {

constexpr std::int64_t heads = 4;

struct DenseShape {
  Grid grid;
  std::int64_t dim;
  bool held_out = false;
};
struct SparseShape {
  Grid grid;
  std::int64_t dim;
  Block block;
  double density;
  bool scopes = false;  // select in every scope
  bool held_out = false;
};

const std::vector<DenseShape>& dense_shapes() {
  static const std::vector<DenseShape> shapes{{{12, 16, 16}, 128}, {{12, 16, 16}, 64},        {{8, 8, 16}, 128},
                                              {{8, 8, 16}, 64},    {{4, 8, 8}, 128},          {{4, 8, 8}, 64},
                                              {{2, 8, 8}, 128},    {{2, 8, 8}, 64},           {{1, 4, 4}, 128},
                                              {{1, 4, 4}, 64},     {{10, 14, 16}, 128, true}, {{6, 10, 10}, 64, true}};
  return shapes;
}

const std::vector<SparseShape>& sparse_shapes() {
  static const Grid large{12, 16, 16}, middle{8, 8, 16}, small{4, 8, 8}, least{2, 8, 8}, call{1, 4, 4};
  static const std::vector<SparseShape> shapes{
      {large, 128, {2, 2, 3}, 0.15},
      {large, 128, {2, 2, 3}, 0.4},
      {large, 128, {2, 4, 6}, 0.15, true},
      {large, 128, {2, 4, 6}, 0.4},
      {large, 128, {4, 4, 8}, 0.15, true},
      {large, 128, {4, 4, 8}, 0.4},
      {large, 128, {2, full, full}, 0.4},
      {large, 64, {2, 4, 6}, 0.25},
      {large, 64, {4, 4, 8}, 0.25, true},
      {middle, 128, {2, 4, 4}, 0.25},
      {middle, 128, {4, 4, 8}, 0.25},
      {middle, 64, {2, 4, 4}, 0.25},
      {small, 128, {2, 4, 4}, 0.25, true},
      {small, 64, {2, 2, 4}, 0.25},
      {least, 128, {1, 4, 4}, 0.25},
      {least, 64, {2, 2, 4}, 0.25},
      {call, 128, {1, 2, 2}, 0.25, true},
      {call, 64, {1, 2, 2}, 0.25},
      {{10, 14, 16}, 128, {3, 4, 5}, 0.2, false, true},
      {{10, 14, 16}, 64, {full, 4, 4}, 0.3, false, true},
      {{6, 10, 10}, 128, {2, 5, 5}, 0.25, false, true},
  };
  return shapes;
}

Problem problem_of(const Grid& grid, const Block& block, const Policy& policy, std::int64_t dim) {
  return Problem({.grid = grid, .block = block, .heads = heads, .dim = dim, .policy = policy});
}

void measure(std::vector<Contender>& all, double seconds,
             const std::function<void(std::int64_t, const std::string&)>& tick) {
  measure_rounds(all, groups_of(all), {.seconds = seconds, .least = 3, .most = 40}, [](const std::string&) {});
  tick(static_cast<std::int64_t>(dense_shapes().size() + sparse_shapes().size()), all.back().name);
}

}  // namespace

std::vector<Observation> observe(const std::string& backend, DType dtype, std::uint64_t seed, bool quick,
                                 const std::function<void(std::int64_t, const std::string&)>& tick) {
  const at::ScalarType type = ops::scalar_type_of(dtype);
  const double seconds = quick ? 0.3 : 1;
  std::vector<Observation> out;
  for (const DenseShape& shape : dense_shapes()) {
    const Inputs inputs = make_inputs("smooth", shape.grid, heads, shape.dim, seed);
    const Leaves ours(inputs, type, false), torch(inputs, type, true);
    const Forward attention = vmoba_attention(spec_of(shape.grid, Block{}, Dense{}, backend));
    std::vector<Contender> all{{"forward:ours", forward_only(ours, attention)},
                               {"forward:torch", forward_only(torch, torch_sdpa())},
                               {"backward:ours", backward_only(ours, attention)},
                               {"backward:torch", backward_only(torch, torch_sdpa())}};
    measure(all, seconds, tick);
    const Problem problem = problem_of(shape.grid, Block{}, Dense{}, shape.dim);
    for (const std::size_t first : {0, 2}) {
      const Contender& best = all[all[first + 1].times.median() < all[first].times.median() ? first + 1 : first];
      out.push_back({first == 0 ? Part::dense_forward : Part::dense_backward, problem, 1, best.times.median(),
                     shape.held_out, best.name.substr(best.name.find(':') + 1)});
    }
  }
  for (const SparseShape& shape : sparse_shapes()) {
    const Leaves x(make_inputs("smooth", shape.grid, heads, shape.dim, seed), type, false);
    const ops::Spec spec = tuned(x, spec_of(shape.grid, shape.block, Threshold{}, backend), shape.density);
    const at::Tensor bits = select_once(x, spec);
    const double density = density_of(x, bits, spec);
    std::vector<Contender> all{{"attend forward", forward_only(x, vmoba_attend(bits, spec))},
                               {"attend backward", backward_only(x, vmoba_attend(bits, spec))},
                               {"select head", select_only(x, spec)}};
    std::vector<Policy> policies{spec.policy};
    if (shape.scopes)
      for (const Scope scope : {Scope::query, Scope::block, Scope::all}) {
        ops::Spec scoped = spec;
        std::get<Threshold>(scoped.policy).scope = scope;
        policies.push_back(scoped.policy);
        all.push_back({"select " + std::string(name(scope)), select_only(x, scoped)});
      }
    measure(all, seconds, tick);
    const Problem problem = problem_of(shape.grid, shape.block, spec.policy, shape.dim);
    out.push_back({Part::sparse_forward, problem, density, all[0].times.median(), shape.held_out});
    out.push_back({Part::sparse_backward, problem, density, all[1].times.median(), shape.held_out});
    for (std::size_t i = 0; i < policies.size(); ++i)
      out.push_back({Part::select, problem_of(shape.grid, shape.block, policies[i], shape.dim), density,
                     all[2 + i].times.median(), shape.held_out});
  }
  return out;
}

}  // namespace vmoba::tools
