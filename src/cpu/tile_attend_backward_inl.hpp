// SPDX-License-Identifier: Apache-2.0
// attend_backward of one bf16 item with matrix tiles: the five products of attend_backward_inl.hpp, operands in bf16,
// sums in fp32.
//
//   for every key block, for every tile of its keys:            tile_keys
//     k, v -> panels of B over D; k -> panels of B over keys; dk^T = dv^T = 0, or what the item before left
//     for every head of the key/value head, for its rows that attend the block, in groups:  group_rows
//       q, dout -> strips of A, and transposed (k of those products runs over rows)
//       in pairs of strips:                                                                 pair_rows
//         p  = 2^(c q k^T - lse);  ds = p (dout v^T - (delta - dlse))
//         p, ds -> panels of B over rows, ds -> strips of A, rounded to bf16
//         dq += ds k
//       dv^T += dout^T p;  dk^T += q^T ds
//     dk, dv of the tile are done: transposed back, dk times scale
//
// dk and dv are summed transposed so that the operands that need transposing are q and dout, not p and ds (fewer for D
// below 128), and as one sum a group, so that a load and a store of a sum pay for four products. The steps of three
// pairs overlap as in tile_attend_inl.hpp. Every sum runs over heads, then windows of indices, then rows in ascending
// order, 32 at a time: windows are the same wherever the indices are cut. Must equal reference::attend_backward.

struct TileBackward {
  const BackwardItem& item;
  Scale scale;
  std::int64_t width, depth;    // D in whole 16s and 32s
  float *lse, *lse_rest;        // [heads, last - first]: log2 units, and what rounding left of it
  float* delta;                 // [heads, last - first]: delta - dlse
  std::uint16_t *kt, *vt, *k;   // panels of the current tile: over D, over D, over keys
  float *dk, *dv;               // [width, score_width]: transposed
  std::uint16_t *q, *dout;      // strips of A of a group
  std::uint16_t *qt, *doutt;    // the same transposed
  std::uint16_t *p, *ds_panel;  // panels of B over the group's rows
  std::uint16_t* ds[2];         // strips of A of a pair
  float *s[2], *dp[2];          // [pair_rows, score_width]
  float* products;              // [pair_rows, width]
  std::uint16_t* spare;         // 17 deep rows
  float ones[pair_rows];
  float keep[tile_side];  // of the tile's last 16 columns: 0, or -1 beyond its keys
};

// p and ds of a pair of strips, 16 columns of two rows at a step. Rows beyond the pair's and columns beyond the tile's
// keys become 0: products sum over both.
struct Gradients {
  const float *s, *dp, *keep;
  std::uint16_t *p, *ds_panel, *ds;
  const std::int32_t* list;
  const float *lse, *lse_rest, *delta;
  int rows, columns, steps;  // steps of 32 rows in the group
  float magnitude;
  int row, column;
  Vec minus[2], rest[2], shift[2];

  void begin_rows() {
    column = 0;
    for (int i = 0; i < 2 && row + i < rows; ++i) {
      const std::int32_t at = list[row + i];
      minus[i] = set(-lse[at]);
      rest[i] = set(lse_rest[at]);
      shift[i] = set(delta[at]);
    }
  }
  [[gnu::always_inline]] void step() {
    if (row >= pair_rows || rows == 0) return;
    constexpr int n = 16 / lanes;
    Vec weights[2][n], slopes[2][n];
    for (int i = 0; i < 2; ++i) {
      const float *from = s + (row + i) * score_width + column * 16,
                  *dp_from = dp + (row + i) * score_width + column * 16;
      for (int j = 0; j < n; ++j) {
        const Vec w = weight(min(zero(), sub(fma(load(from + j * lanes), set(magnitude), minus[i]), rest[i])));
        weights[i][j] = row + i < rows ? w : zero();
        slopes[i][j] = row + i < rows ? mul(w, sub(load(dp_from + j * lanes), shift[i])) : zero();
      }
    }
    if (column + 1 == columns) {
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < n; ++j) slopes[i][j] = zero_below(load(keep + j * lanes), zero(), slopes[i][j]);
      }
    }
    const int of_panel = (column | 1) < columns ? 2 : 1;
    const std::int64_t panel_row = (column / 2 * steps * 2 + column % 2) * tile_size + row / 2 * 32;
    round_pairs(p + panel_row + (of_panel == 2 ? step_offset : step_offset / 2), weights[0], weights[1]);
    round_pairs(ds_panel + panel_row + (of_panel == 2 ? step_offset : step_offset / 2), slopes[0], slopes[1]);
    std::uint16_t* to =
        ds + row / 16 * (tile_keys / 32 * tile_size) + row % 16 * 32 + column / 2 * tile_size + column % 2 * 16;
    round_16(to, slopes[0]);
    round_16(to + 32, slopes[1]);
    if (++column < columns) return;
    row += 2;
    begin_rows();
  }
  std::int64_t step_offset;  // of the pair's step in a panel of two tiles
};

struct GradientsAndAdditions {
  Gradients& gradients;
  Additions& additions;
  [[gnu::always_inline]] void step() {
    gradients.step();
    additions.step();
  }
};

// Rows of a group as strips of A, rows beyond it cleared, and transposed.
inline void gather_group(TileBackward& f, const Matrix& m, std::uint16_t turn, const std::int32_t* list, int rows,
                         std::uint16_t* strips, std::uint16_t* transposed) {
  const BackwardItem& item = f.item;
  const std::int64_t strip = 16 * f.depth;
  const int steps = (rows + 31) / 32;
  for (int i = 0; i < rows; ++i) {
    const std::uint16_t* row = whole_row(m, item.shape, item.first + list[i], f.spare);
    if (turn) {
      for (std::int64_t d = 0; d < f.depth; ++d) f.spare[d] = static_cast<std::uint16_t>(row[d] ^ turn);
      row = f.spare;
    }
    gather_row(strips, strip, i, row, f.depth);
  }
  for (int i = rows; i < steps * 32; ++i) clear_row_of_strip(strips, strip, i, f.depth);
  for (std::int64_t d = 0; d < f.width; d += 16) {
    for (int step = 0; step < steps; ++step) {
      transpose_rows(transposed + (d / 16 * steps + step) * tile_size,
                     strips + step * 2 * strip + d / 32 * tile_size + d % 32, strip);
    }
  }
}

// One group of at most group_rows rows of one head against one tile of keys.
inline void backward_group_of_tiles(TileBackward& f, Tiles& tiles, const KeyTile& tile, std::int64_t head,
                                    const std::int32_t* list, int count) {
  const BackwardItem& item = f.item;
  const ItemShape& s = item.shape;
  const std::int64_t strip = 16 * f.depth, n = item.last - item.first;
  const int pairs = (count + 31) / 32, key_columns = (tile.count + 15) / 16, key_steps = (tile.count + 31) / 32;
  const int depth_steps = static_cast<int>(f.depth / 32), columns = static_cast<int>(f.width / 16);
  gather_group(f, of_head(item.q, head * item.q_head, s), s.scale < 0 ? 0x8000 : 0, list, count, f.q, f.qt);
  gather_group(f, of_head(item.dout, head * item.dout_head, s), 0, list, count, f.dout, f.doutt);

  const auto rows_of = [&](int pair) {
    const int rest = count - pair * 32;
    return pair < 0 || rest <= 0 ? 0 : (rest < 32 ? rest : 32);
  };
  const auto list_of = [&](int pair) { return list + (rows_of(pair) ? pair * 32 : 0); };
  for (int pair = -1; pair <= pairs + 1; ++pair) {
    Gradients gradients{f.s[pair & 1],
                        f.dp[pair & 1],
                        f.keep,
                        f.p,
                        f.ds_panel,
                        f.ds[pair & 1],
                        list_of(pair),
                        f.lse + head * n,
                        f.lse_rest + head * n,
                        f.delta + head * n,
                        rows_of(pair),
                        key_columns,
                        pairs,
                        f.scale.magnitude,
                        0,
                        0,
                        {zero(), zero()},
                        {zero(), zero()},
                        {zero(), zero()},
                        pair * 2 * tile_size};
    gradients.begin_rows();
    Additions additions{
        f.products, f.ones, list_of(pair - 2), item.dq_sum + head * n * f.width, f.width, rows_of(pair - 2), 0, 0};
    if (const int rows = rows_of(pair + 1)) {
      const std::int64_t at = (pair + 1) * 2 * strip;
      GradientsAndAdditions both{gradients, additions};
      multiply<false>(tiles, f.q + at, strip, rows, f.kt, depth_steps, key_columns, f.s[(pair + 1) & 1], score_width,
                      both);
      multiply<false>(tiles, f.dout + at, strip, rows, f.vt, depth_steps, key_columns, f.dp[(pair + 1) & 1],
                      score_width, both);
    }
    while (additions.row < additions.rows) additions.step();
    if (const int rows = rows_of(pair - 1)) {
      multiply<false>(tiles, f.ds[(pair - 1) & 1], tile_keys / 32 * tile_size, rows, f.k, key_steps, columns,
                      f.products, f.width, gradients);
    }
    while (gradients.rows && gradients.row < pair_rows) gradients.step();
  }

  Nothing nothing;
  for (int d = 0; d < columns; d += 2) {
    const int rows = d + 1 < columns ? 32 : 16;
    const std::int64_t at = static_cast<std::int64_t>(d) * pairs * tile_size, to = d * 16 * score_width;
    multiply<true>(tiles, f.doutt + at, pairs * tile_size, rows, f.p, pairs, key_columns, f.dv + to, score_width,
                   nothing);
    multiply<true>(tiles, f.qt + at, pairs * tile_size, rows, f.ds_panel, pairs, key_columns, f.dk + to, score_width,
                   nothing);
  }
}

// lse and delta of the item's rows, and dq cleared. delta sums over D as dp does, by the same product of tiles: dp -
// delta of a row with one key is exactly 0.
inline void begin_rows_of_tiles(TileBackward& f, Tiles& tiles) {
  const BackwardItem& item = f.item;
  const ItemShape& s = item.shape;
  const std::int64_t n = item.last - item.first, strip = 16 * f.depth;
  const int steps = static_cast<int>(f.depth / 32);
  Nothing nothing;
  for (std::int64_t head = 0; head < item.heads; ++head) {
    const Matrix out = of_head(item.out, head * item.out_head, s), dout = of_head(item.dout, head * item.dout_head, s);
    for (std::int64_t i = 0; i < n; i += 16) {
      const int rows = n - i < 16 ? static_cast<int>(n - i) : 16;
      for (int j = 0; j < rows; ++j) {
        gather_row(f.dout, strip, j, whole_row(dout, s, item.first + i + j, f.spare), f.depth);
      }
      for (int j = rows; j < 16; ++j) clear_row_of_strip(f.dout, strip, j, f.depth);
      pack_keys(f.kt, out, s, {nullptr, item.first + i, rows}, f.spare);
      multiply<false>(tiles, f.dout, strip, rows, f.kt, steps, 1, f.s[0], score_width, nothing);
      for (int j = 0; j < rows; ++j) {
        const std::int64_t at = head * n + i + j;
        const float product = f.s[0][j * score_width + j];
        begin_row(item, head, s.row(item.first + i + j), product, f.lse[at], f.lse_rest[at], f.delta[at]);
      }
    }
  }
  __builtin_memset(item.dq_sum, 0, static_cast<unsigned long>(item.heads * n * f.width) * sizeof(float));
}

// Unfinished sums of a tile lie transposed, [D][keys], at the place of its first key in the order of key blocks.
inline float* unfinished(float* sums, std::int64_t stride, std::int64_t place) { return sums + place * stride; }

inline void begin_sums(const TileBackward& f, float* to, const float* from, int count) {
  for (std::int64_t d = 0; d < f.width; ++d, to += score_width) {
    __builtin_memset(to, 0, score_width * sizeof(float));
    if (!f.item.begins && d < f.item.shape.dim) {
      __builtin_memcpy(to, from + d * count, static_cast<unsigned long>(count) * sizeof(float));
    }
  }
}
inline void leave_sums(const TileBackward& f, float* to, const float* from, int count) {
  for (std::int64_t d = 0; d < f.item.shape.dim; ++d) {
    __builtin_memcpy(to + d * count, from + d * score_width, static_cast<unsigned long>(count) * sizeof(float));
  }
}
inline void end_sums(const TileBackward& f, const Matrix& gradient, const float* sums, const KeyTile& tile,
                     float factor) {
  const ItemShape& s = f.item.shape;
  for (int j = 0; j < tile.count; j += 16) {
    for (std::int64_t d = 0; d < f.width; d += lanes) {
      for (int i = 0; i < 16; i += lanes) {
        Vec x[lanes];
        for (int l = 0; l < lanes; ++l) x[l] = load(sums + (d + l) * score_width + j + i);
        transpose(x);
        for (int l = 0; l < lanes; ++l) store(f.products + (i + l) * f.width + d, x[l]);
      }
    }
    for (int i = 0; i < 16 && j + i < tile.count; ++i) {
      narrow_row(row_of_output(gradient, s, s.row(tile.index(j + i))), f.products + i * f.width, s, set(factor));
    }
  }
}

void attend_backward_with_tiles(const BackwardItem& item) {
  const FlushSubnormals flush;
  Tiles tiles;
  const ItemShape& s = item.shape;
  const std::int64_t n = item.last - item.first, width = padded(s.dim), depth = deep(s.dim);
  Cutter memory{item.scratch};
  TileBackward f{item, scale_of(s), width, depth};
  f.lse = memory.cut<float>(item.heads * n);
  f.lse_rest = memory.cut<float>(item.heads * n);
  f.delta = memory.cut<float>(item.heads * n);
  std::int32_t* list = memory.cut<std::int32_t>(n);
  f.kt = memory.cut<std::uint16_t>(tile_keys * depth);
  f.vt = memory.cut<std::uint16_t>(tile_keys * depth);
  f.k = memory.cut<std::uint16_t>(tile_keys * width);
  f.dk = memory.cut<float>(width * score_width);
  f.dv = memory.cut<float>(width * score_width);
  f.q = memory.cut<std::uint16_t>(group_rows * depth);
  f.dout = memory.cut<std::uint16_t>(group_rows * depth);
  f.qt = memory.cut<std::uint16_t>(group_rows * width);
  f.doutt = memory.cut<std::uint16_t>(group_rows * width);
  f.p = memory.cut<std::uint16_t>(group_rows * tile_keys);
  f.ds_panel = memory.cut<std::uint16_t>(group_rows * tile_keys);
  for (int i = 0; i < 2; ++i) {
    f.ds[i] = memory.cut<std::uint16_t>(pair_rows * tile_keys);
    f.s[i] = memory.cut<float>(pair_rows * score_width);
    f.dp[i] = memory.cut<float>(pair_rows * score_width);
  }
  f.products = memory.cut<float>(pair_rows * width);
  f.spare = memory.cut<std::uint16_t>(17 * depth);
  for (float& one : f.ones) one = 1.0f;
  begin_rows_of_tiles(f, tiles);

  std::int64_t turn = 0, place = 0;  // of the tile; keys of the tiles before it
  for (std::int64_t c = 0; c < key_blocks(s); ++c) {
    const std::int64_t keys = key_count(s, c);
    if (keys == 0) continue;
    const int length = whole_tile_length(keys);
    for (std::int64_t begin = 0; begin < keys; begin += length, ++turn) {
      const KeyTile tile = key_tile(s, c, begin, begin + length < keys ? begin + length : keys);
      float *dk_sum = unfinished(item.dk_sum, item.dk_sum_stride, place),
            *dv_sum = unfinished(item.dv_sum, item.dv_sum_stride, place);
      place += tile.count;
      const int last = (tile.count - 1) / 16 * 16;
      for (int i = 0; i < 16; ++i) f.keep[i] = last + i < tile.count ? 0.0f : -1.0f;
      bool packed = false;
      if (!item.begins) item.wait(item.turn, turn);
      begin_sums(f, f.dk, dk_sum, tile.count);
      begin_sums(f, f.dv, dv_sum, tile.count);
      for (std::int64_t head = 0; head < item.heads; ++head) {
        const std::uint64_t* selection = item.selection ? item.selection + head * s.blocks * s.words : nullptr;
        for (std::int64_t first = item.first; first < item.last; first += item.window) {
          const std::int64_t last_of_window = first + item.window < item.last ? first + item.window : item.last;
          const std::int64_t rows = list_rows(list, s, selection, c, first, last_of_window);
          if (rows == 0) continue;
          for (std::int64_t i = 0; i < rows; ++i) list[i] += static_cast<std::int32_t>(first - item.first);
          if (!packed) {
            pack_keys(f.kt, item.k, s, tile, f.spare);
            pack_keys(f.vt, item.v, s, tile, f.spare);
            pack_values(f.k, item.k, s, tile, f.spare);
            // An odd last 16 columns leave half a step of ds over keys that nobody writes.
            for (std::uint16_t* ds : f.ds) {
              __builtin_memset(ds, 0, static_cast<unsigned long>(pair_rows * tile_keys) * 2);
            }
            packed = true;
          }
          for (std::int64_t i = 0; i < rows; i += group_rows) {
            backward_group_of_tiles(f, tiles, tile, head, list + i,
                                    static_cast<int>(rows - i < group_rows ? rows - i : group_rows));
          }
        }
      }
      if (item.ends) {
        end_sums(f, item.dk, f.dk, tile, static_cast<float>(__builtin_fabs(s.scale)));
        end_sums(f, item.dv, f.dv, tile, 1.0f);
      } else {
        leave_sums(f, dk_sum, f.dk, tile.count);
        leave_sums(f, dv_sum, f.dv, tile.count);
        item.leave(item.turn, turn);
      }
    }
  }

  const Vec factor = set(static_cast<float>(s.scale));
  for (std::int64_t head = 0; head < item.heads; ++head) {
    const Matrix dq = of_head(item.dq, head * item.dq_head, s);
    for (std::int64_t i = 0; i < n; ++i) {
      narrow_row(row_of_output(dq, s, s.row(item.first + i)), item.dq_sum + (head * n + i) * width, s, factor);
    }
  }
  clear_gradients_of_padding(item);
}
