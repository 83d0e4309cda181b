// SPDX-License-Identifier: Apache-2.0
// attend of one item: out = softmax(scale q k^T) v over the selected blocks, online over key tiles (spec section 4).
//
//   for every key block, for every tile of its keys:            tile_keys
//     k -> transposed panels, v -> row panels                   L2, read straight from the strided input
//     for the item's rows that attend the block, in groups:     tile_rows
//       s = q k^T        register tiles, a key panel (16 KB of D 128) stays in L1
//       p = 2^(c s - m)  c = scale log2(e)
//       out += p v       register tiles, straight into the fp32 rows of the item
//
// m is a reference, not always the maximum: it moves only when a score exceeds it by more than 8 (p <= 256), so most
// tiles rescale nothing. A row's value depends on its own scores and the order of key tiles only. Must equal
// reference::attend.

struct Forward {
  const AttendItem& item;
  Scale scale;
  std::int64_t width;      // floats of a row of q and out: D rounded up to 16
  float *q, *out;          // [last - first, width]
  float *reference, *sum;  // [last - first]
  float *k, *v;            // panels of the current tile
  float *gathered, *scores;
  float* nowhere;  // [row_stride]: rows beyond the group end here
};

inline void softmax_row(Forward& f, float* s, int vectors, Vec bias, std::int32_t at) {
  const int end = (vectors - 1) * lanes;
  const Vec final_scores = load(s + end);
  Vec top = add(final_scores, bias);
  for (int j = 0; j < end; j += lanes) top = max(top, load(s + j));
  const float peak = reduce_max(top) * f.scale.magnitude;
  if (!(peak <= f.reference[at] + 8.0f)) {
    if (f.sum[at] != 0.0f) {
      const Vec factor = exp2(set(f.reference[at] - peak));
      float first[lanes];
      store(first, factor);
      f.sum[at] *= first[0];
      float* row = f.out + at * f.width;
      for (std::int64_t d = 0; d < f.width; d += lanes) store(row + d, mul(load(row + d), factor));
    }
    f.reference[at] = peak;
  }
  const Vec c = set(f.scale.magnitude), m = set(-f.reference[at]);
  Vec total = exp2(add(fma(final_scores, c, m), bias));  // the bias last: scale may be 0
  store(s + end, total);
  for (int j = 0; j < end; j += lanes) {
    const Vec p = exp2(fma(load(s + j), c, m));
    store(s + j, p);
    total = add(total, p);
  }
  f.sum[at] += reduce_add(total);
}

// One group of at most tile_rows rows against one tile of keys.
inline void attend_group(Forward& f, const KeyTile& tile, const std::int32_t* list, int rows) {
  const ItemShape& s = f.item.shape;
  const int dim = static_cast<int>(s.dim), vectors = tile.vectors();
  float* targets[tile_rows + row_slack];
  for (int i = 0; i < rows; ++i) {
    const float* from = f.q + list[i] * f.width;
    for (std::int64_t d = 0; d < f.width; d += lanes) store(f.gathered + i * row_stride + d, load(from + d));
    targets[i] = f.out + list[i] * f.width;
  }
  for (int i = rows; i < rows + row_slack; ++i) targets[i] = f.nowhere;

  for (int g = 0; g < vectors; g += 2) {
    const float* b = f.k + (g / 2) * s.dim * panel;
    const Regular where{f.scores + g * lanes, score_stride};
    if (g + 1 < vectors) {
      multiply_panel<2, false, row_stride, 1, panel>(f.gathered, b, rows, dim, where);
    } else {
      multiply_panel<1, false, row_stride, 1, lanes>(f.gathered, b, rows, dim, where);
    }
  }
  float keep[lanes];
  for (int j = 0; j < lanes; ++j) keep[j] = (vectors - 1) * lanes + j < tile.count ? 0.0f : -__builtin_inff();
  const Vec bias = load(keep);
  for (int i = 0; i < rows; ++i) softmax_row(f, f.scores + i * score_stride, vectors, bias, list[i]);

  const int columns = (dim + lanes - 1) / lanes;
  for (int g = 0; g < columns; g += 2) {
    const float* b = f.v + static_cast<std::int64_t>(g / 2) * tile.count * panel;
    const Scattered where{targets, g * lanes};
    if (g + 1 < columns) {
      multiply_panel<2, true, score_stride, 1, panel>(f.scores, b, rows, tile.count, where);
    } else {
      multiply_panel<1, true, score_stride, 1, lanes>(f.scores, b, rows, tile.count, where);
    }
  }
}

void attend(const AttendItem& item) {
  const FlushSubnormals flush;
  const ItemShape& s = item.shape;
  const std::int64_t n = item.last - item.first, width = padded(s.dim);
  Cutter memory{item.scratch};
  Forward f{item, scale_of(s), width, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  f.q = memory.cut<float>(n * width);
  f.out = memory.cut<float>(n * width);
  f.reference = memory.cut<float>(n);
  f.sum = memory.cut<float>(n);
  std::int32_t* list = memory.cut<std::int32_t>(n);
  f.k = memory.cut<float>((tile_keys + 16) * width);
  f.v = memory.cut<float>((tile_keys + 16) * width);
  f.gathered = memory.cut<float>((tile_rows + row_slack) * row_stride);
  f.scores = memory.cut<float>((tile_rows + row_slack) * score_stride);
  f.nowhere = memory.cut<float>(row_stride);

  const Vec factor = set(f.scale.sign);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t d = s.dim & -16; d < width; d += lanes) store(f.q + i * width + d, zero());
    widen_row(f.q + i * width, row_of(item.q, s, item.first + i), s, factor);
    f.reference[i] = -__builtin_inff();
    f.sum[i] = 0.0f;
  }
  __builtin_memset(f.out, 0, static_cast<unsigned long>(n * width) * sizeof(float));
  // Rows beyond a group are computed and dropped; they start as zeros, not as whatever the memory held.
  __builtin_memset(f.gathered, 0, sizeof(float) * (tile_rows + row_slack) * row_stride);
  __builtin_memset(f.scores, 0, sizeof(float) * (tile_rows + row_slack) * score_stride);
  __builtin_memset(f.nowhere, 0, sizeof(float) * row_stride);

  for (std::int64_t c = 0; c < key_blocks(s); ++c) {
    const std::int64_t keys = key_count(s, c), rows = list_rows(list, s, item.selection, c, item.first, item.last);
    if (rows == 0 || keys == 0) continue;
    const int length = tile_length(keys);
    for (std::int64_t begin = 0; begin < keys; begin += length) {
      const KeyTile tile = key_tile(s, c, begin, begin + length < keys ? begin + length : keys);
      pack_columns(f.k, item.k, s, tile);
      pack_rows(f.v, item.v, s, tile, 1.0f);
      for (std::int64_t i = 0; i < rows; i += tile_rows) {
        attend_group(f, tile, list + i, static_cast<int>(rows - i < tile_rows ? rows - i : tile_rows));
      }
    }
  }

  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = s.row(item.first + i);
    const bool empty = f.sum[i] == 0.0f;
    float* out = f.out + i * width;
    const Vec divisor = set(empty ? 1.0f : f.sum[i]), one = set(1.0f);
    for (std::int64_t d = 0; d < width; d += lanes) store(out + d, div(load(out + d), divisor));
    narrow_row(row_of_output(item.out, s, row), out, s, one);
    if (item.lse) {
      const double natural = 0.6931471805599453 * (static_cast<double>(f.reference[i]) + __builtin_log2(f.sum[i]));
      item.lse[row * item.lse_stride] = empty ? -__builtin_inff() : static_cast<float>(natural);
    }
  }
  if (item.clears) {
    for (std::int64_t row = s.text_begin + s.text_valid; row < s.text_begin + (s.rows - s.tokens); ++row) {
      clear_row(row_of_output(item.out, s, row), s);
      if (item.lse) item.lse[row * item.lse_stride] = -__builtin_inff();
    }
  }
}
