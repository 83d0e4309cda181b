// SPDX-License-Identifier: Apache-2.0
// Cutting a grid into blocks: one label a token, and the tokens listed block after block.
#include "vmoba/partition.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "text.hpp"
#include "vmoba/error.hpp"

namespace vmoba {
namespace {

void check_axis(const char* axis, std::int64_t length) {
  if (length < 1) {
    throw_argument(std::string("grid.") + axis, number(length), "is not a number of tokens", "use 1 or more");
  }
}

// The extent with full replaced by the axis length.
std::int64_t checked_extent(const char* axis, std::int64_t extent, std::int64_t length) {
  if (extent == full) return length;
  const std::string range = "use 1.." + number(length) + ", or full for the whole axis";
  if (extent < 1) {
    throw_argument(std::string("block.") + axis, number(extent), "is not a number of tokens", range);
  }
  if (extent > length) {
    throw_argument(std::string("block.") + axis, number(extent),
                   std::string("is larger than grid.") + axis + " = " + number(length), range);
  }
  return extent;
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

Partition::Partition(Grid grid, Block block) : grid_(grid), block_(block) {
  check_axis("t", grid.t);
  check_axis("y", grid.y);
  check_axis("x", grid.x);
  const std::int64_t tokens = product_or_minus1(product_or_minus1(grid.t, grid.y), grid.x);
  if (tokens < 0 || tokens > std::numeric_limits<std::int32_t>::max()) {
    throw_argument("grid", words(grid), "has more than 2147483647 tokens", "use a smaller grid");
  }

  std::int64_t blocks = 0;
  if (const Run* run = block.run()) {
    if (run->tokens < 1 || run->tokens > tokens) {
      throw_argument("block.run", number(run->tokens), "is not a number of tokens of a grid of " + number(tokens),
                     "use 1.." + number(tokens));
    }
    blocks = ceil_div(tokens, run->tokens);
    label_.resize(tokens);
    for (std::int64_t s = 0; s < tokens; ++s) label_[s] = static_cast<std::int32_t>(s / run->tokens);
  } else {
    const Cuboid& c = *block.cuboid();
    const std::int64_t bt = checked_extent("t", c.t, grid.t);
    const std::int64_t by = checked_extent("y", c.y, grid.y);
    const std::int64_t bx = checked_extent("x", c.x, grid.x);
    const std::int64_t ny = ceil_div(grid.y, by), nx = ceil_div(grid.x, bx);
    blocks = ceil_div(grid.t, bt) * ny * nx;
    label_.resize(tokens);
    std::int64_t s = 0;
    for (std::int64_t t = 0; t < grid.t; ++t) {
      for (std::int64_t y = 0; y < grid.y; ++y) {
        for (std::int64_t x = 0; x < grid.x; ++x) {
          label_[s++] = static_cast<std::int32_t>(((t / bt) * ny + y / by) * nx + x / bx);
        }
      }
    }
  }

  begin_.assign(blocks + 1, 0);
  for (std::int32_t c : label_) ++begin_[c + 1];
  for (std::int64_t c = 0; c < blocks; ++c) begin_[c + 1] += begin_[c];
  order_.resize(tokens);
  std::vector<std::int64_t> next(begin_.begin(), begin_.end() - 1);
  for (std::int64_t s = 0; s < tokens; ++s) order_[next[label_[s]]++] = static_cast<std::int32_t>(s);
}

std::int64_t Partition::smallest() const {
  std::int64_t result = tokens();
  for (std::int64_t c = 0; c < blocks(); ++c) result = std::min(result, size(c));
  return result;
}

std::int64_t Partition::largest() const {
  std::int64_t result = 0;
  for (std::int64_t c = 0; c < blocks(); ++c) result = std::max(result, size(c));
  return result;
}

}  // namespace vmoba
