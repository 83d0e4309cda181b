// SPDX-License-Identifier: Apache-2.0
// From problems to items: shapes, matrices and the cut of query indices, shared by attend and attend_backward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/attend_item.hpp"
#include "vmoba/problem.hpp"
#include "vmoba/selection.hpp"

namespace vmoba::cpu {

inline std::int64_t indices_of(const Sample& sample) { return sample.tokens() + sample.text_valid; }

struct Cut {
  std::int64_t pieces, length;
};
// About `wanted` pieces of `least` to `most` indices each, equal but for the last.
inline Cut cut_indices(std::int64_t indices, std::int64_t wanted, std::int64_t least, std::int64_t most) {
  const std::int64_t up = std::max<std::int64_t>((indices + least - 1) / least, 1);
  std::int64_t pieces = std::max<std::int64_t>(std::min(wanted, up), (indices + most - 1) / most);
  const std::int64_t length = std::max<std::int64_t>(((indices + pieces - 1) / pieces + 63) / 64 * 64, 64);
  return {(indices + length - 1) / length, std::min(length, indices)};
}

// Whether the selection keeps every pair of query heads [head, head + count): then they are dense, whose tiles need no
// lists and are never smaller than tile_keys. Found at the first word that lacks a bit.
inline bool keeps_all(const Selection& selection, std::int64_t b, std::int64_t head, std::int64_t count) {
  const Selection::Shape& shape = selection.shape(b);
  const std::int64_t full = shape.rows() / 64, rest = shape.rows() % 64;
  for (std::int64_t h = head; h < head + count; ++h) {
    for (std::int64_t c = 0; c < shape.keys->blocks(); ++c) {
      const std::uint64_t* words = selection.words_of(b, h, c);
      for (std::int64_t w = 0; w < full; ++w) {
        if (~words[w]) return false;
      }
      if (rest && ~words[full] << (64 - rest)) return false;
    }
  }
  return true;
}

// Panels of keys and values are packed once for all items of a key/value head, within this bound: 34 MB a head of 33K
// tokens and D 128, of which two are at work on few threads. Item by item, packing took 6 to 9 % of a forward at
// density .15.
inline constexpr std::int64_t most_panel_bytes = 80 << 20;
// Floats of one head of a sample. A head whose selection keeps all is dense, and its tiles are others.
inline std::int64_t panel_floats(const Problem& problem, std::int64_t b) {
  const Sample& sample = problem.sample(b);
  const auto begin = sample.partition->begin();
  std::int64_t floats = block_floats(sample.text_valid, problem.dim());
  for (std::size_t c = 0; c + 1 < begin.size(); ++c) floats += block_floats(begin[c + 1] - begin[c], problem.dim());
  return std::max(floats, block_floats(indices_of(sample), problem.dim()));
}

inline ItemShape shape_of(const Problem& problem, std::int64_t b, const Selection* selection) {
  const Sample& sample = problem.sample(b);
  ItemShape s{};
  s.dtype = problem.dtype();
  s.dim = problem.dim();
  s.scale = problem.scale();
  s.tokens = sample.tokens();
  s.rows = sample.rows;
  s.video_begin = sample.video_begin;
  s.text_begin = sample.text_begin;
  s.text_valid = sample.text_valid;
  s.dense = selection == nullptr;
  if (selection) {
    const Selection::Shape& shape = selection->shape(b);
    s.blocks = shape.keys->blocks();
    s.block_begin = shape.keys->begin().data();
    s.block_order = shape.keys->order().data();
    s.words = shape.words();
    if (shape.queries) {
      s.query_label = shape.queries->labels().data();
    }
  }
  return s;
}

inline Matrix matrix(const Problem& problem, const ConstView& view, std::int64_t b, std::int64_t head) {
  const std::int64_t bytes = problem.offset(view, b, 0, head) * bytes_of(view.dtype);
  return {const_cast<char*>(static_cast<const char*>(view.data)) + bytes, view.token_stride};
}

}  // namespace vmoba::cpu
