// SPDX-License-Identifier: Apache-2.0
// Comparison of results: positions of NaN and infinities, relative L2, the worst row, and what they may come to.
// Functions return "" when all is well, else a sentence, so that EXPECT_EQ(..., "") prints what went wrong.
#pragma once

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "expected.hpp"
#include "naive.hpp"
#include "tensors.hpp"

namespace vmoba::test {

// Whether a value is stored as an infinity of its sign, or rounding on the way decides that: f16 ends at 65,504.
inline bool ends_the_range(double value, DType dtype) { return dtype == DType::f16 && std::abs(value) > 65000; }

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
      const bool same = (std::isnan(a[i]) && std::isnan(e[i])) || a[i] == e[i] ||
                        (std::isinf(a[i]) && a[i] * e[i] > 0 && ends_the_range(e[i], actual.dtype()));
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

// Everything a backend's results for these inputs are measured by.
struct Standard {
  Tensors truth;     // reference in double
  Tensors naive;     // the naive computation in the problem's dtype
  Tensors expected;  // one expected fp32 rounding error away from the truth
  Tensors stored;    // reference with results of the problem's dtype

  Standard(const Problem& p, const Selection* selection, const Tensors& inputs, bool with_dlse = true)
      : truth(test::truth(p, selection, inputs, with_dlse)),
        naive(test::naive(p, selection, inputs, with_dlse)),
        expected(expected_error(p, selection, inputs, with_dlse)),
        stored(inputs) {
    run(p, selection, stored, {.backend = "reference"}, with_dlse);
  }
};

// What a result is judged as: out and lse may err by 2x, gradients by 3x what the naive computation errs by in the same
// dtype, over all elements and in the worst row. What it errs by is the largest of
//   - its measured error;
//   - its expected error in fp32: with few rows the measured one is luck. Over 21,500 random problems, all dtypes and
//     cpu tiers, the tiers used up to 20 times a budget without it, and up to 0.95 of this one;
//   - the error of reference with results stored in the dtype: nothing that stores half an ulp off is better, and
//     gradients start from out and lse as stored.
struct Verdict {
  const char* of;
  Tensor Tensors::*tensor;
  double factor;
  Difference ours{}, naive{}, expected{}, stored{};
  double used_l2 = 0, used_row = 0;  // shares of the budget

  double used() const { return std::max(used_l2, used_row); }
  bool passed() const { return ours.special == 0 && used_l2 <= 1 && used_row <= 1; }
};

inline std::vector<Verdict> judge(const Tensors& actual, const Standard& standard) {
  std::vector<Verdict> verdicts{{"out", &Tensors::out, 2},
                                {"lse", &Tensors::lse, 2},
                                {"dq", &Tensors::dq, 3},
                                {"dk", &Tensors::dk, 3},
                                {"dv", &Tensors::dv, 3}};
  for (Verdict& v : verdicts) {
    const Tensor& truth = standard.truth.*v.tensor;
    v.ours = difference(actual.*v.tensor, truth);
    v.naive = difference(standard.naive.*v.tensor, truth);
    v.expected = difference(standard.expected.*v.tensor, truth);
    v.stored = difference(standard.stored.*v.tensor, truth);
    const auto used = [&](double Difference::*measure) {
      const double budget = v.factor * std::max({v.naive.*measure, v.expected.*measure, v.stored.*measure});
      return v.ours.*measure == 0 ? 0 : v.ours.*measure / budget;
    };
    v.used_l2 = used(&Difference::relative_l2);
    v.used_row = used(&Difference::worst_row);
  }
  return verdicts;
}

// "" when passed, else a sentence.
inline std::string words(const Verdict& v) {
  if (v.passed()) return "";
  std::ostringstream text;
  text.precision(3);
  text << v.of << ": relative L2 " << v.ours.relative_l2 << " (" << 100 * v.used_l2 << " % of the budget), worst row "
       << v.ours.worst_row << " (" << 100 * v.used_row << " %), " << v.ours.special
       << " elements differ in being NaN or infinite. ";
  return text.str();
}

inline std::string check_results(const Tensors& actual, const Standard& standard) {
  std::string text;
  for (const Verdict& v : judge(actual, standard)) text += words(v);
  return text;
}
// actual holds inputs and the results of a backend.
inline std::string check_results(const Problem& p, const Selection* selection, const Tensors& actual,
                                 bool with_dlse = true) {
  return check_results(actual, Standard(p, selection, actual, with_dlse));
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
