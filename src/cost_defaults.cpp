// SPDX-License-Identifier: Apache-2.0
// Costs built in, by tier. From `vmoba bench --fit` on an AMD EPYC (Zen 5), two threads, f32, dense by the quicker of
// this library and torch 2.13; mean error of the fit 2 to 8 % a part, of shapes that were held out 2 to 9 %.
#include <array>

#include "vmoba/cost.hpp"

namespace vmoba {
namespace {

const CostModel skylake{
    .backend = "cpu:skylake",
    .dense_forward = {.flop = 4.75e-12, .pair = 1.25e-10, .token = 0, .call = 9.9e-5},
    .dense_backward = {.flop = 4.83e-12, .pair = 0, .token = 0, .call = 1.23e-4},
    .sparse_forward = {.flop = 5.55e-12, .pair = 0, .visit = 1.95e-8, .token = 7.3e-10, .call = 8.6e-5},
    .sparse_backward = {.flop = 5.71e-12, .pair = 0, .visit = 3.1e-8, .token = 8.4e-10, .call = 1.02e-4},
    .select = {.flop = 7.7e-13,
               .pair_head = 1.4e-9,
               .pair_query = 1.07e-9,
               .pair_block = 1.09e-8,
               .pair_all = 1.73e-9,
               .token = 3.8e-10,
               .call = 9.3e-5}};

// The same on an AMD EPYC (Zen 3), whose best tier it is: the third of three runs on the quiet machine (mean error 3 to
// 9 % a part, 4 to 11 % held out). Calls no longer ask the CPU what it can, as they did when the costs above were
// fitted.
const CostModel haswell{
    .backend = "cpu:haswell",
    .dense_forward = {.flop = 1.29e-11, .pair = 9.1e-10, .token = 6.4e-9, .call = 2.5e-5},
    .dense_backward = {.flop = 1.43e-11, .pair = 0, .token = 1.27e-8, .call = 6.4e-5},
    .sparse_forward = {.flop = 1.83e-11, .pair = 0, .visit = 4.9e-8, .token = 3.5e-9, .call = 4.6e-5},
    .sparse_backward = {.flop = 1.73e-11, .pair = 0, .visit = 8.4e-8, .token = 5.8e-9, .call = 1.03e-4},
    .select = {.flop = 1.19e-11,
               .pair_head = 4.2e-9,
               .pair_query = 2.0e-9,
               .pair_block = 1.78e-8,
               .pair_all = 2.2e-9,
               .token = 9.9e-10,
               .call = 4.8e-5}};

// 3.6 times those of haswell, as attend's multiply-adds were in fits of both tiers on that machine; calls cost the
// same.
CostModel scaled(CostModel costs, std::string_view backend, double factor) {
  visit_coefficients(costs, [&](const std::string& name, double& value) {
    if (!name.ends_with(".call")) value *= factor;
  });
  costs.backend = backend;
  return costs;
}

}  // namespace

const CostModel& default_costs(std::string_view backend) {
  static const std::array models{skylake, haswell, scaled(haswell, "cpu:generic", 3.6)};
  for (const CostModel& one : models)
    if (one.backend == backend) return one;
  return backend == "reference" ? models.back() : models.front();
}

}  // namespace vmoba
