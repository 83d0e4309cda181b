// SPDX-License-Identifier: Apache-2.0
// Numbers and shapes as words, for error messages and explanations.
#pragma once

#include <charconv>
#include <cstdint>
#include <string>

#include "vmoba/types.hpp"

namespace vmoba {

inline std::string number(std::int64_t value) { return std::to_string(value); }

// The shortest decimal that reads back as the same double.
inline std::string number(double value) {
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value);
  return {buffer, end.ptr};
}

inline std::string words(const Grid& grid) {
  return "{" + number(grid.t) + ", " + number(grid.y) + ", " + number(grid.x) + "}";
}

inline std::string extent_words(std::int64_t extent) { return extent == full ? "full" : number(extent); }

inline std::string words(const Block& block) {
  if (const Run* run = block.run()) return "Run{" + number(run->tokens) + "}";
  const Cuboid& c = *block.cuboid();
  return "{" + extent_words(c.t) + ", " + extent_words(c.y) + ", " + extent_words(c.x) + "}";
}

// a * b for a, b >= 0, or -1 when it does not fit.
inline std::int64_t product_or_minus1(std::int64_t a, std::int64_t b) {
  std::int64_t result;
  return a < 0 || b < 0 || __builtin_mul_overflow(a, b, &result) ? -1 : result;
}

}  // namespace vmoba
