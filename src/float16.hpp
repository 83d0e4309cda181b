// SPDX-License-Identifier: Apache-2.0
// Exact conversions between bf16, f16 and double: round to nearest even in one step, subnormals, infinities, NaN.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "vmoba/types.hpp"

namespace vmoba {

// Rounds to a 16-bit float once, straight from double: going through float first would round twice.
template <int exponent_bits, int mantissa_bits>
std::uint16_t narrow(double value) {
  constexpr int bias = (1 << (exponent_bits - 1)) - 1;
  constexpr std::uint64_t infinity = ((1ull << exponent_bits) - 1) << mantissa_bits;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint64_t sign = (bits >> 63) << (exponent_bits + mantissa_bits);
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
  const std::uint64_t fraction = bits & ((1ull << 52) - 1);
  if (exponent == 0x7ff) {
    const std::uint64_t quiet = fraction == 0 ? 0 : 1ull << (mantissa_bits - 1) | fraction >> (52 - mantissa_bits);
    return static_cast<std::uint16_t>(sign | infinity | quiet);
  }
  if (exponent == 0) return static_cast<std::uint16_t>(sign);  // double subnormals lie far below ours
  int biased = exponent - 1023 + bias;
  int shift = 52 - mantissa_bits;
  if (biased <= 0) {  // subnormal result: the implicit bit moves down
    shift += 1 - biased;
    biased = 0;
  }
  if (shift > 54) return static_cast<std::uint16_t>(sign);
  const std::uint64_t significand = fraction | 1ull << 52;
  std::uint64_t rounded = significand >> shift;
  const std::uint64_t rest = significand & ((1ull << shift) - 1), half = 1ull << (shift - 1);
  if (rest > half || (rest == half && (rounded & 1))) ++rounded;
  // A carry out of the mantissa moves into the exponent, which is what rounding up means.
  std::uint64_t result = biased > 0 ? (static_cast<std::uint64_t>(biased - 1) << mantissa_bits) + rounded : rounded;
  if (result > infinity) result = infinity;
  return static_cast<std::uint16_t>(sign | result);
}

template <int exponent_bits, int mantissa_bits>
double widen(std::uint16_t bits) {
  constexpr int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << mantissa_bits) - 1);
  double magnitude;
  if (exponent == (1 << exponent_bits) - 1) {
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<double>(fraction), 1 - bias - mantissa_bits);
  } else {
    magnitude = std::ldexp(static_cast<double>(fraction | 1 << mantissa_bits), exponent - bias - mantissa_bits);
  }
  return bits >> (exponent_bits + mantissa_bits) ? -magnitude : magnitude;
}

inline double to_double(float value) { return value; }
inline double to_double(double value) { return value; }
inline double to_double(bf16 value) { return widen<8, 7>(value.bits); }
inline double to_double(f16 value) { return widen<5, 10>(value.bits); }

template <class Element>
Element from_double(double value) {
  return static_cast<Element>(value);
}
template <>
inline bf16 from_double<bf16>(double value) {
  return {narrow<8, 7>(value)};
}
template <>
inline f16 from_double<f16>(double value) {
  return {narrow<5, 10>(value)};
}

}  // namespace vmoba
