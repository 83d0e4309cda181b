// SPDX-License-Identifier: Apache-2.0
// The error that the naive computation is expected to have: the same loops over numbers that carry the variance of
// their rounding errors. The measured error of a few rows is luck (a gradient that cancels, a logit that happens to be
// exact); its expectation is not.
#pragma once

#include <cmath>
#include <limits>

#include "naive.hpp"

namespace vmoba::test {

// A value and the variance of its error. Every operation passes on the errors of its operands, as if independent, and
// adds a rounding of its own, uniform within the unit roundoff of Sum (float or double).
template <class Sum>
class Uncertain {
 public:
  Uncertain(double value = 0) : value_(value) {}
  explicit operator double() const {  // one standard deviation away
    return value_ + (variance_ > 0 && std::isfinite(variance_) ? std::sqrt(variance_) : 0);
  }

  friend Uncertain operator+(Uncertain a, Uncertain b) { return {a.value_ + b.value_, a.variance_ + b.variance_}; }
  friend Uncertain operator-(Uncertain a, Uncertain b) { return {a.value_ - b.value_, a.variance_ + b.variance_}; }
  friend Uncertain operator*(Uncertain a, Uncertain b) {
    return {a.value_ * b.value_, a.value_ * a.value_ * b.variance_ + b.value_ * b.value_ * a.variance_};
  }
  friend Uncertain operator/(Uncertain a, Uncertain b) {
    const double value = a.value_ / b.value_;
    return {value, (a.variance_ + value * value * b.variance_) / (b.value_ * b.value_)};
  }
  Uncertain& operator+=(Uncertain other) { return *this = *this + other; }
  friend Uncertain exp(Uncertain a) {
    const double value = std::exp(a.value_);
    return {value, value * value * a.variance_};
  }
  friend Uncertain log(Uncertain a) { return {std::log(a.value_), a.variance_ / (a.value_ * a.value_)}; }
  friend bool operator<(Uncertain a, Uncertain b) { return a.value_ < b.value_; }

 private:
  Uncertain(double value, double passed_on) : value_(value), variance_(passed_on + square(unit * value) / 3) {}
  static constexpr double unit = std::numeric_limits<Sum>::epsilon() / 2;
  static double square(double x) { return x * x; }
  double value_, variance_ = 0;
};

template <class Element, class Sum>
Uncertain<Sum> rounded(Uncertain<Sum> value) {
  return value;  // every operation has rounded already
}

// Results one standard deviation away from what these inputs give, in double. Sums run in fp32 (double for f64), as in
// every backend; the coarser rounding of 16-bit results is not in it.
inline Tensors expected_error(const Problem& p, const Selection* selection, const Tensors& inputs,
                              bool with_dlse = true) {
  Tensors t = inputs.to(DType::f64, DType::f64);
  if (p.dtype() == DType::f64) {
    naive_in<double, Uncertain<double>>(p, selection, t, with_dlse);
  } else {
    naive_in<float, Uncertain<float>>(p, selection, t, with_dlse);
  }
  return t;
}

}  // namespace vmoba::test
