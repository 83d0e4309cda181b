// SPDX-License-Identifier: Apache-2.0
// Fits the cost model: non-negative least squares over relative errors.
#include "tools/bench/fit.hpp"

#include <array>
#include <cmath>

namespace vmoba::tools {

namespace {

constexpr std::array parts{Part::dense_forward, Part::dense_backward, Part::sparse_forward, Part::sparse_backward,
                           Part::select};

}  // namespace

const char* name(Part part) {
  constexpr std::array names{"dense forward", "dense backward", "attend forward", "attend backward", "select"};
  return names[static_cast<std::size_t>(part)];
}

double predicted(const CostModel& costs, const Observation& what, std::int64_t threads) {
  const auto of = [&](Direction direction) { return predict(costs, what.problem, direction, threads, what.density); };
  switch (what.part) {
    case Part::dense_forward:
      return of(Direction::forward).dense;
    case Part::dense_backward:
      return of(Direction::forward_backward).dense - of(Direction::forward).dense;
    case Part::sparse_forward:
      return of(Direction::forward).attend;
    case Part::sparse_backward:
      return of(Direction::forward_backward).attend - of(Direction::forward).attend;
    case Part::select:
      break;
  }
  return of(Direction::forward).select;
}

CostModel fit_costs(const std::vector<Observation>& observations, const std::string& backend, std::int64_t threads) {
  CostModel out;
  out.backend = backend;
  std::vector<double*> coefficients;
  visit_coefficients(out, [&](const std::string&, double& value) { coefficients.push_back(&value); });
  for (const Part part : parts) {
    std::vector<const Observation*> rows;
    for (const Observation& one : observations)
      if (one.part == part && !one.held_out) rows.push_back(&one);
    // A prediction is linear in the coefficients: the model with one of them 1 and the others 0 gives its column.
    struct Column {
      double* coefficient;
      std::vector<double> values;
      double square = 0;
    };
    std::vector<Column> columns;
    for (std::size_t i = 0; i < coefficients.size(); ++i) {
      CostModel unit;
      std::size_t place = 0;
      visit_coefficients(unit, [&](const std::string&, double& value) { value = place++ == i ? 1 : 0; });
      Column column{coefficients[i], {}};
      for (const Observation* row : rows) {
        column.values.push_back(predicted(unit, *row, threads) / row->seconds);
        column.square += column.values.back() * column.values.back();
      }
      if (column.square > 0) columns.push_back(std::move(column));
    }
    // Coordinate descent: each coefficient in turn to its best value, never below 0. A dozen columns, thirty rows.
    std::vector<double> left(rows.size(), 1);
    for (int sweep = 0; sweep < 20000; ++sweep) {
      double moved = 0;
      for (Column& column : columns) {
        double slope = 0;
        for (std::size_t r = 0; r < left.size(); ++r) slope += column.values[r] * left[r];
        const double next = std::max(0.0, *column.coefficient + slope / column.square);
        const double step = next - *column.coefficient;
        *column.coefficient = next;
        for (std::size_t r = 0; r < left.size(); ++r) left[r] -= step * column.values[r];
        moved = std::max(moved, std::abs(step) * std::sqrt(column.square));
      }
      if (moved < 1e-9) break;
    }
  }
  return out;
}

}  // namespace vmoba::tools
