// SPDX-License-Identifier: Apache-2.0
// attend of one item: out = softmax(scale q k^T) v over the selected blocks, online over key tiles (spec section 4).
//
//   for every key block, for every tile of its keys:            tile_keys
//     k -> transposed panels, v -> row panels                   L2, read straight from the strided input; once for all
//                                                               items of a head where that is worth the memory
//     for the item's rows that attend the block, in groups:     tile_rows
//       s = q k^T        register tiles, a key panel (16 KB of D 128) stays in L1
//       p = 2^(c (s - m))  c = scale log2(e); turned, so that keys are rows and rows are lanes
//       out += p v       register tiles, straight into the fp32 rows of the item
//
// m is a reference, not always the maximum: it moves only when a logit exceeds it by more than 8 (p <= 256), so most
// tiles rescale nothing. A row's value depends on its own scores and the order of key tiles only. Must equal
// reference::attend.

struct Forward {
  const AttendItem& item;
  Scale scale;
  std::int64_t width;      // floats of a row of q and out: D rounded up to 16
  std::int64_t stride;     // from one to the next
  float *q, *out;          // [last - first, stride]
  float *reference, *sum;  // [last - first]; a reference is a product q . k, not yet scaled
  const float *k, *v;      // panels of the current tile
  float* scores;           // [tile_rows, score_stride]
  float* weights;          // [tile_keys, weight_stride]
  float* nowhere;          // [row_stride]: rows beyond the group end here
};

// A score of row `at` exceeds its reference by too much: the row starts over from the new one.
inline void move_reference(Forward& f, std::int32_t at, float peak) {
  if (f.sum[at] != 0.0f) {
    float first[lanes];
    const Vec factor = exp2(set((f.reference[at] - peak) * f.scale.magnitude));
    store(first, factor);
    f.sum[at] *= first[0];
    float* row = f.out + at * f.stride;
    for (std::int64_t d = 0; d < f.width; d += lanes) store(row + d, mul(load(row + d), factor));
  }
  f.reference[at] = peak;
}

// Scores of a group, row by row, to weights, key by key: rows become lanes, so that maximum, reference and sum of a row
// are one lane of a vector and a tile of 12 keys pays no horizontal steps.
inline void softmax_rows(Forward& f, const KeyTile& tile, const std::int32_t* list, int rows) {
  const Vec c = set(f.scale.magnitude);
  for (int i = 0; i < rows; i += lanes) {
    const int there = rows - i < lanes ? rows - i : lanes;
    float* weights = f.weights + i;
    Vec top = set(-__builtin_inff());
    for (int j = 0; j < tile.count; j += lanes) {
      Vec x[lanes];
      for (int r = 0; r < lanes; ++r) x[r] = load(f.scores + (i + r) * score_stride + j);
      transpose(x);
      const int keys = tile.count - j < lanes ? tile.count - j : lanes;
      for (int k = 0; k < keys; ++k) {
        top = max(top, x[k]);
        store(weights + (j + k) * weight_stride, x[k]);
      }
    }
    float reference[lanes] = {}, sum[lanes], peaks[lanes];
    for (int r = 0; r < there; ++r) reference[r] = f.reference[list[i + r]];
    const Vec peak = max(set(lowest), top);  // NaN stays
    const unsigned stay = greater_equal(set(8.0f), mul(sub(peak, load(reference)), c));
    for (unsigned moved = ~stay & ((1u << there) - 1u); moved; moved &= moved - 1) {
      const int r = __builtin_ctz(moved);
      store(peaks, peak);
      move_reference(f, list[i + r], peaks[r]);
      reference[r] = peaks[r];
    }
    const Vec m = load(reference);
    Vec even = zero(), odd = zero();
    int k = 0;
    for (; k + 1 < tile.count; k += 2) {
      float *first = weights + k * weight_stride, *second = first + weight_stride;
      const Vec p = exp2(mul(sub(load(first), m), c)), q = exp2(mul(sub(load(second), m), c));
      store(first, p);
      store(second, q);
      even = add(even, p);
      odd = add(odd, q);
    }
    if (k < tile.count) {
      const Vec p = exp2(mul(sub(load(weights + k * weight_stride), m), c));
      store(weights + k * weight_stride, p);
      even = add(even, p);
    }
    store(sum, add(even, odd));
    for (int r = 0; r < there; ++r) f.sum[list[i + r]] += sum[r];
  }
}

// One group of at most tile_rows rows against one tile of keys; the `following` rows at `after` come next.
inline void attend_group(Forward& f, const KeyTile& tile, Ahead& ahead, const std::int32_t* list, int rows,
                         const std::int32_t* after, int following) {
  const ItemShape& s = f.item.shape;
  const int dim = static_cast<int>(s.dim), vectors = tile.vectors();
  const float* sources[tile_rows + row_slack];
  float* targets[tile_rows + row_slack];
  for (int i = 0; i < rows; ++i) {
    sources[i] = f.q + list[i] * f.stride;
    targets[i] = f.out + list[i] * f.stride;
  }
  for (int i = rows; i < rows + row_slack; ++i) sources[i] = targets[i] = f.nowhere;

  for (int g = 0; g < vectors; g += 2) {
    const float* b = f.k + (g / 2) * s.dim * panel;
    const Regular where{f.scores + g * lanes, score_stride};
    if (g + 1 < vectors) {
      multiply_rows<2, panel, true>(sources, b, rows, dim, where, g == 0);
    } else {
      multiply_rows<1, lanes, true>(sources, b, rows, dim, where, g == 0);
    }
    ahead.step();
  }
  for (int i = 0; i < rows; ++i) ask_ahead({targets, 0, 0}, i);
  softmax_rows(f, tile, list, rows);

  const int columns = (dim + lanes - 1) / lanes;
  for (int g = 0; g < columns; g += 2) {
    const float* b = f.v + static_cast<std::int64_t>(g / 2) * tile.count * panel;
    const Scattered where{targets, g * lanes, g + 2 < columns ? panel : 0};
    if (g + 1 < columns) {
      multiply_panel<2, true, 1, weight_stride>(f.weights, Packed<panel>{b}, rows, tile.count, where);
    } else {
      multiply_panel<1, true, 1, weight_stride>(f.weights, Packed<lanes>{b}, rows, tile.count, where);
    }
    ahead.step();
  }
  for (int i = 0; i < following && i < 6; ++i) ask_for_row(f.q + after[i] * f.stride, dim);
}

// A tile in panels: first half k, second half v.
inline void pack_tile(float* panels, const Matrix& k, const Matrix& v, const ItemShape& s, const KeyTile& tile) {
  pack_columns(panels, k, s, tile);
  pack_rows(panels + tile_floats(tile.count, s.dim) / 2, v, s, tile, 1.0f);
}

void pack_panels(const PackItem& item) {
  const FlushSubnormals flush;
  const ItemShape& s = item.shape;
  float* panels = item.panels;
  std::int64_t number = 0;
  for (std::int64_t c = 0; c < key_blocks(s); ++c) {
    const std::int64_t keys = key_count(s, c);
    const int length = keys ? tile_length(keys) : 0;
    for (std::int64_t begin = 0; begin < keys; begin += length, ++number) {
      const KeyTile tile = key_tile(s, c, begin, begin + length < keys ? begin + length : keys);
      if (number % item.parts == item.part) pack_tile(panels, item.k, item.v, s, tile);
      panels += tile_floats(tile.count, s.dim);
    }
  }
}

void attend(const AttendItem& item) {
  const FlushSubnormals flush;
  const ItemShape& s = item.shape;
  const std::int64_t n = item.last - item.first, width = padded(s.dim), stride = spread(s.dim);
  Cutter memory{item.scratch};
  Forward f{item,    scale_of(s), width,   stride,  nullptr, nullptr, nullptr,
            nullptr, nullptr,     nullptr, nullptr, nullptr, nullptr};
  f.q = memory.cut<float>(n * stride);
  f.out = memory.cut<float>(n * stride);
  f.reference = memory.cut<float>(n);
  f.sum = memory.cut<float>(n);
  std::int32_t* list = memory.cut<std::int32_t>(n);
  float* const own_panels = memory.cut<float>(2 * (tile_keys + 16) * width);
  f.scores = memory.cut<float>((tile_rows + row_slack) * score_stride);
  f.weights = memory.cut<float>(tile_keys * weight_stride);
  f.nowhere = memory.cut<float>(row_stride);

  const Vec factor = set(f.scale.sign);
  for (std::int64_t i = 0; i < n; ++i) {
    if (i + rows_ahead < n) ask_for_row(item.q, s, item.first + i + rows_ahead);
    for (std::int64_t d = s.dim & -16; d < width; d += lanes) store(f.q + i * stride + d, zero());
    widen_row(f.q + i * stride, row_of(item.q, s, item.first + i), s, factor);
    f.reference[i] = -__builtin_inff();
    f.sum[i] = 0.0f;
  }
  __builtin_memset(f.out, 0, static_cast<unsigned long>(n * stride) * sizeof(float));
  // Rows beyond a group are computed and dropped; they start as zeros, not as whatever the memory held.
  __builtin_memset(f.scores, 0, sizeof(float) * (tile_rows + row_slack) * score_stride);
  __builtin_memset(f.weights, 0, sizeof(float) * tile_keys * weight_stride);
  __builtin_memset(f.nowhere, 0, sizeof(float) * row_stride);

  const float* panels = item.panels;  // of the next tile
  for (std::int64_t c = 0; c < key_blocks(s); ++c) {
    const std::int64_t keys = key_count(s, c), rows = list_rows(list, s, item.selection, c, item.first, item.last);
    if (keys == 0 || (rows == 0 && !panels)) continue;
    const int length = tile_length(keys);
    for (std::int64_t begin = 0; begin < keys; begin += length) {
      const KeyTile tile = key_tile(s, c, begin, begin + length < keys ? begin + length : keys);
      const std::int64_t floats = tile_floats(tile.count, s.dim);
      f.k = panels ? panels : own_panels;
      f.v = f.k + floats / 2;
      if (panels) panels += floats;
      if (rows == 0) continue;
      if (!panels) pack_tile(own_panels, item.k, item.v, s, tile);
      // Panels that are there lie one after another: asking for them as well cost 4 % of blocks of 48 and 128 keys.
      const KeyTile next = panels ? KeyTile{nullptr, 0, 0} : next_tile(s, c, begin, length);
      Ahead ahead = ahead_of(&item.k, &item.v, s, tile, next, rows);
      for (std::int64_t i = 0; i < rows; i += tile_rows) {
        const auto count = [&](std::int64_t first) {
          return static_cast<int>(rows - first < tile_rows ? rows - first : tile_rows);
        };
        // The rows of a block start over with its next tile.
        const std::int64_t after = i + tile_rows < rows ? i + tile_rows : 0;
        attend_group(f, tile, ahead, list + i, count(i), list + after, count(after));
      }
    }
  }

  finish_rows(item, f.out, stride, f.reference, f.sum);
}
