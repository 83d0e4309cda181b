// SPDX-License-Identifier: Apache-2.0
// Partition: the tokens of one grid cut into blocks (paper section 3.2; spec: ragged edges are normal, nothing is padded).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmoba/types.hpp"

namespace vmoba {

// Immutable after construction; safe to read from any thread. Blocks are numbered in raster order of their positions
// (t, then y, then x); tokens inside a block are listed in ascending raster order. Memory: 8 bytes a token.
class Partition {
 public:
  // Throws Error when an extent is 0, negative other than full, or larger than its axis, or a run is empty or longer
  // than the grid; grids of up to 2^31 - 1 tokens.
  Partition(Grid grid, Block block);

  const Grid& grid() const { return grid_; }
  const Block& block() const { return block_; }
  std::int64_t tokens() const { return static_cast<std::int64_t>(label_.size()); }     // S
  std::int64_t blocks() const { return static_cast<std::int64_t>(begin_.size()) - 1; }  // N
  std::int64_t size(std::int64_t block) const { return begin_[block + 1] - begin_[block]; }
  std::int32_t own(std::int64_t token) const { return label_[token]; }  // the block that contains token
  std::span<const std::int32_t> tokens_of(std::int64_t block) const {
    return {order_.data() + begin_[block], static_cast<std::size_t>(size(block))};
  }
  std::span<const std::int32_t> labels() const { return label_; }  // [S] own block of each token
  std::span<const std::int32_t> order() const { return order_; }   // [S] tokens, block after block
  std::span<const std::int64_t> begin() const { return begin_; }   // [N + 1] where each block starts in order()
  std::int64_t smallest() const;  // tokens of the smallest block
  std::int64_t largest() const;   // tokens of the largest block
  bool operator==(const Partition&) const = default;

 private:
  Grid grid_;
  Block block_;
  std::vector<std::int32_t> label_, order_;
  std::vector<std::int64_t> begin_;
};

}  // namespace vmoba
