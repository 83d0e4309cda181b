// SPDX-License-Identifier: Apache-2.0
// What the matrix tile kernels (bf16) share with their callers: sizes, and the scratch memory of their items.
#pragma once

#include <cstdint>

#include "cpu/attend_item.hpp"

namespace vmoba::cpu {

inline constexpr std::int64_t tile_side = 16;     // rows of a tile, columns of a sum
inline constexpr std::int64_t tile_depth = 32;    // bf16 values of a row, what one product of tiles sums over
inline constexpr std::int64_t tile_size = 512;    // bf16 values of a tile
inline constexpr std::int64_t pair_rows = 32;     // query rows that go through a kernel together: two tiles
inline constexpr std::int64_t group_rows = 128;   // query rows of a group of the backward
inline constexpr std::int64_t score_width = 144;  // floats between rows of scores: 128, and an odd number of lines

inline constexpr std::int64_t deep(std::int64_t dim) { return (dim + tile_depth - 1) / tile_depth * tile_depth; }

inline constexpr std::int64_t tile_attend_scratch(std::int64_t dim, std::int64_t rows) {
  return aligned(rows * deep(dim) * 2) + aligned(rows * padded(dim) * 4) + 3 * aligned(rows * 4) +  // q, out; row state
         tile_keys * deep(dim) * 2 + tile_keys * padded(dim) * 2 +                                  // k, v
         2 * pair_rows * (deep(dim) * 2 + score_width * 4 + tile_keys * 2) +                        // q, scores, p
         pair_rows * padded(dim) * 4 + tile_size * 4 + deep(dim) * 2 * 32;                          // products, rest
}

inline constexpr std::int64_t tile_backward_scratch(std::int64_t dim, std::int64_t rows, std::int64_t heads) {
  return 3 * aligned(heads * rows * 4) + aligned(rows * 4) +                // lse, delta; list
         tile_keys * (2 * deep(dim) + padded(dim)) * 2 +                    // k twice, v
         2 * padded(dim) * score_width * 4 +                                // dk, dv
         2 * group_rows * (deep(dim) + padded(dim)) * 2 +                   // q, dout, and transposed
         2 * group_rows * tile_keys * 2 +                                   // p, ds as B
         2 * pair_rows * (tile_keys * 2 + 2 * score_width * 4) +            // ds as A; scores, dp
         pair_rows * padded(dim) * 4 + tile_size * 4 + deep(dim) * 2 * 32;  // products, rest
}

}  // namespace vmoba::cpu
