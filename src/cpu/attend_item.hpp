// SPDX-License-Identifier: Apache-2.0
// Work items of attend and attend_backward: plain numbers and pointers, what one worker does in one go.
//
// Rows of a sample that take part are numbered 0 .. S + valid text - 1: video tokens in raster order, then text. Such a
// number is called an index; row(index) is its position within the sample.
#pragma once

#include <cstdint>

#include "vmoba/types.hpp"

namespace vmoba::cpu {

// Keys of one tile, query rows of one group, floats between rows of a gathered tile and of a score tile. 128 keys of
// D 128 as transposed panels and rows are 128 KB: L2 everywhere. The strides are constants so that the inner loops
// address twelve rows with one register, and odd multiples of a cache line so that rows do not share L1 sets.
inline constexpr int tile_keys = 128;
inline constexpr int tile_rows = 48;
inline constexpr int row_stride = 272;
inline constexpr int score_stride = 144;
inline constexpr int weight_stride = 80;  // floats from one key to the next of a tile of weights, rows side by side
inline constexpr int few_keys = 64;       // a tile of so many does little with each query row that it reads
inline constexpr int row_slack = 12;      // rows a register tile may reach beyond the last

inline constexpr std::int64_t padded(std::int64_t dim) { return (dim + 15) / 16 * 16; }
// Floats from one row of an item to the next: an odd number of cache lines, so that a column of many rows falls into
// all sets of L1. Rows of 512 bytes shared eight of its 64, and had left when they were read again (0.97 to 1.00 of the
// time of a forward and a backward).
inline constexpr std::int64_t spread(std::int64_t dim) { return padded(dim) / 16 % 2 ? padded(dim) : padded(dim) + 16; }

struct Matrix {
  void* data;           // row 0 of the sample, D contiguous
  std::int64_t stride;  // elements between rows
};

// What all items of a (sample, head) share.
struct ItemShape {
  DType dtype;
  std::int64_t dim;
  double scale;               // of the logits
  std::int64_t tokens, rows;  // S, S + L
  std::int64_t video_begin, text_begin, text_valid;
  bool dense;
  std::int64_t blocks;              // N; the rest is looked at only when not dense
  const std::int64_t* block_begin;  // [N + 1]
  const std::int32_t* block_order;  // [S]
  const std::int32_t* query_label;  // [S] selection row of each token; null: a selection row is a token
  std::int64_t words;               // 64-bit words a block has in the selection

  std::int64_t indices() const { return tokens + text_valid; }
  std::int64_t row(std::int64_t index) const {
    return index < tokens ? video_begin + index : text_begin + (index - tokens);
  }
};

// Keys and values of one key/value head as the panels that attend multiplies, tile after tile in the order they are
// attended: those tiles whose number is `part` modulo `parts`.
struct PackItem {
  ItemShape shape;
  Matrix k, v;
  float* panels;
  std::int64_t part, parts;
};

// Forward of query indices [first, last) of one head.
struct AttendItem {
  ItemShape shape;
  Matrix q, k, v, out;
  const float* panels;  // of the key/value head, by its PackItems; null: the item packs k and v for itself
  float* lse;           // null: not wanted
  std::int64_t lse_stride;
  const std::uint64_t* selection;  // [N, words] of the head
  std::int64_t first, last;
  bool clears;    // writes the rows of padding text as well
  char* scratch;  // attend_scratch() bytes, 64-byte aligned
};

// Backward of query indices [first, last) of `heads` of the query heads that share one key/value head. The items of a
// key/value head run in order of head, then first, tile by tile: an item adds to dk and dv of a tile what the item
// before it left there, so every sum runs over heads, then rows, wherever the indices were cut.
struct BackwardItem {
  ItemShape shape;
  Matrix q, k, v, out, dout, dq, dk, dv;
  std::int64_t heads;
  std::int64_t q_head, out_head, dout_head, dq_head;  // elements from one head to the next
  const float* lse;
  std::int64_t lse_stride, lse_head;
  const float* dlse;  // null: none
  std::int64_t dlse_stride, dlse_head;
  const std::uint64_t* selection;  // [heads, N, words]
  std::int64_t first, last;
  std::int64_t window;     // matrix tiles: rows are summed in windows of so many indices from `first` on
  bool begins, ends;       // first and last item of its key/value head
  float *dk_sum, *dv_sum;  // [rows, stride] unfinished sums; unused by an item that begins and ends
  std::int64_t dk_sum_stride, dv_sum_stride;
  float* rows;  // [2, heads, last - first, spread(D)] for fp32 copies of q and dout; null: read where they lie
  // k and v as transposed panels, tile after tile, which the first item of a key/value head makes and the others read;
  // null: every item its own.
  float* panels;
  float* dq_sum;  // [heads, last - first, padded(D)]; null: dq itself is fp32 and takes the sums
  // wait(turn, tile) returns when the previous item has left `tile`; leave(turn, tile) says so of this one.
  void (*wait)(void* turn, std::int64_t tile);
  void (*leave)(void* turn, std::int64_t tile);
  void* turn;
  char* scratch;  // backward_scratch() bytes, 64-byte aligned
};

// Floats that `keys` keys of one tile, or at most so many of a block, take in panels.
inline constexpr std::int64_t tile_floats(std::int64_t keys, std::int64_t dim) {
  return (keys + 15) / 16 * 32 * padded(dim);
}
inline constexpr std::int64_t block_floats(std::int64_t keys, std::int64_t dim) {
  return keys <= tile_keys ? tile_floats(keys, dim)
                           : 2 * (keys + (keys + tile_keys - 1) / tile_keys * 15) * padded(dim);
}

inline constexpr std::int64_t aligned(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }
inline constexpr std::int64_t attend_scratch(std::int64_t dim, std::int64_t rows) {
  return 2 * aligned(rows * spread(dim) * 4) + 3 * aligned(rows * 4) +  // q, out, max, sum, list
         aligned((tile_keys + 16) * padded(dim) * 8) +                  // k, v panels
         aligned((tile_rows + row_slack) * score_stride * 4) +          // scores
         aligned(tile_keys * weight_stride * 4) + aligned(row_stride * 4) + 2048;
}
inline constexpr std::int64_t backward_scratch(std::int64_t dim, std::int64_t rows, std::int64_t heads) {
  return 3 * aligned(heads * rows * 4) + aligned(rows * 4) +                       // lse, delta, list
         5 * aligned((tile_keys + 16) * (padded(dim) + 16) * 4) +                  // k twice, v, dk, dv
         2 * aligned((tile_rows + row_slack) * (row_stride + score_stride) * 4) +  // q, dout; p, ds
         aligned(row_stride * 4) + 4096;
}

}  // namespace vmoba::cpu
