// SPDX-License-Identifier: Apache-2.0
// Comparison of results: positions of NaN and infinities, relative L2, the worst row, and the budget of the dtype.
// Functions return "" when all is well, else a sentence, so that EXPECT_EQ(..., "") prints what went wrong.
#pragma once

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "naive.hpp"
#include "tensors.hpp"

namespace vmoba::test {

struct Difference {
  std::int64_t special = 0;  // elements that are NaN or infinite on one side only, or infinite with another sign
  double relative_l2 = 0;    // over all elements finite on both sides
  double worst_row = 0;      // largest L2 of a row's error, relative to its norm (at least a tenth of the rms row norm)
};

inline Difference difference(const Tensor& actual, const Tensor& expected) {
  const std::vector<double> a = actual.doubles(), e = expected.doubles();
  const std::size_t width = expected.width(), rows = e.size() / std::max<std::size_t>(width, 1);
  Difference result;
  double error = 0, norm = 0;
  std::vector<double> row_error(rows, 0), row_norm(rows, 0);
  for (std::size_t i = 0; i < e.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(e[i])) {
      const bool same = (std::isnan(a[i]) && std::isnan(e[i])) || a[i] == e[i];
      result.special += !same;
      continue;
    }
    row_error[i / width] += (a[i] - e[i]) * (a[i] - e[i]);
    row_norm[i / width] += e[i] * e[i];
  }
  for (std::size_t r = 0; r < rows; ++r) error += row_error[r], norm += row_norm[r];
  const double floor = std::max(0.1 * std::sqrt(norm / std::max<std::size_t>(rows, 1)), 1e-30);
  result.relative_l2 = std::sqrt(error) / std::max(std::sqrt(norm), 1e-30);
  for (std::size_t r = 0; r < rows; ++r) {
    result.worst_row = std::max(result.worst_row, std::sqrt(row_error[r]) / std::max(std::sqrt(row_norm[r]), floor));
  }
  return result;
}

inline double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 0x1p-24;
    case DType::bf16:
      return 0x1p-8;
    case DType::f16:
      return 0x1p-11;
    case DType::f64:
      return 0x1p-53;
  }
  return 0;
}

// actual against truth within factor times the error of naive, which is never counted below the dtype's own rounding.
inline std::string within_budget(const char* what, const Tensor& actual, const Tensor& naive, const Tensor& truth,
                                 double factor, DType dtype) {
  const Difference ours = difference(actual, truth), theirs = difference(naive, truth);
  const double floor = unit_roundoff(dtype);
  std::ostringstream text;
  if (ours.special != 0) text << what << ": " << ours.special << " elements differ in being NaN or infinite. ";
  const double l2 = factor * std::max(theirs.relative_l2, floor), row = factor * std::max(theirs.worst_row, 2 * floor);
  if (!(ours.relative_l2 <= l2)) text << what << ": relative L2 " << ours.relative_l2 << " over budget " << l2 << ". ";
  if (!(ours.worst_row <= row)) text << what << ": worst row " << ours.worst_row << " over budget " << row << ". ";
  return text.str();
}

// out and lse within 2x, gradients within 3x the error of the naive computation in the problem's dtype.
// actual holds inputs and the results of a backend. sparse problems: the same selection.
inline std::string check_results(const Problem& p, const Selection* selection, const Tensors& actual,
                                 bool with_dlse = true) {
  const Tensors expected = truth(p, selection, actual, with_dlse), rough = naive(p, selection, actual, with_dlse);
  const DType lse = p.lse_dtype(), dtype = p.dtype();
  return within_budget("out", actual.out, rough.out, expected.out, 2, dtype) +
         within_budget("lse", actual.lse, rough.lse, expected.lse, 2, lse) +
         within_budget("dq", actual.dq, rough.dq, expected.dq, 3, dtype) +
         within_budget("dk", actual.dk, rough.dk, expected.dk, 3, dtype) +
         within_budget("dv", actual.dv, rough.dv, expected.dv, 3, dtype);
}

// Equal to a tolerance in relative L2 and worst row; NaN and infinities in the same places.
inline std::string near(const char* what, const Tensor& actual, const Tensor& expected, double tolerance) {
  const Difference d = difference(actual, expected);
  if (d.special == 0 && d.relative_l2 <= tolerance && d.worst_row <= tolerance) return "";
  std::ostringstream text;
  text << what << ": special " << d.special << ", relative L2 " << d.relative_l2 << ", worst row " << d.worst_row
       << ", tolerance " << tolerance;
  return text.str();
}

}  // namespace vmoba::test
