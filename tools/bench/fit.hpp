// SPDX-License-Identifier: Apache-2.0
// --fit: the cost model of this machine from a handful of measured shapes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "vmoba/cost.hpp"
#include "vmoba/problem.hpp"

namespace vmoba::tools {

// What is predicted: one term of a Prediction in one direction.
enum class Part : std::uint8_t { dense_forward, dense_backward, sparse_forward, sparse_backward, select };
const char* name(Part part);

struct Observation {
  Part part;
  Problem problem;
  double density = 1;
  double seconds = 0;     // measured; dense: the quickest of ours and torch's
  bool held_out = false;  // not fitted: tells how far the model carries
  std::string by{};       // dense: who was quickest
};
double predicted(const CostModel& costs, const Observation& what, std::int64_t threads);

// Non-negative coefficients that make the sum of squared relative errors smallest over what is not held out.
CostModel fit_costs(const std::vector<Observation>& observations, const std::string& backend, std::int64_t threads);

// Half a minute to a minute of measurements, interleaved within a shape. quick: a third of it. dtype: of ours and
// torch's.
std::vector<Observation> observe(const std::string& backend, DType dtype, std::uint64_t seed, bool quick,
                                 const std::function<void(std::int64_t of, const std::string& line)>& tick);

}  // namespace vmoba::tools
