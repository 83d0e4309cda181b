// SPDX-License-Identifier: Apache-2.0
// attend_backward of one item (spec section 5): five products a pair of tiles, dk and dv finished key tile by key tile.
//
//   for every key block, for every tile of its keys:            tile_keys
//     k, v -> transposed panels, once for all items of a head where that is worth the memory; scale k -> row panels;
//     dk = dv = 0, or what the item before left
//     for every head of the key/value head, for its rows that attend the block, in groups:  tile_rows
//       p  = 2^(c q k^T - lse)            log2 units, c = scale log2(e)
//       ds = p (dout v^T - (delta - dlse))
//       dv += p^T dout;  dk += ds^T q;  dq += ds (scale k)
//     dk, dv of the tile are done: dk times scale
//
// Columns of p and ds beyond the tile's keys hold anything: they reach rows of dk and dv that nobody writes out, and dq
// sums over real keys. dq takes its sums in fp32 in the order of key tiles. Every element of dk and dv is summed over
// heads, then rows in ascending order. Must equal reference::attend_backward.

struct Backward {
  const BackwardItem& item;
  Scale scale;
  std::int64_t width, stride;  // D rounded up to 16; from a row of dk, dv or the item's copies to the next
  float *lse, *lse_rest;       // [heads, last - first]: log2 units, and what rounding left of it
  float* delta;                // [heads, last - first]: delta - dlse
  float *kt, *vt, *k;          // panels of the current tile, the first two transposed
  float *dk, *dv;              // [tile_keys, stride]
  float *q, *dout;             // [tile_rows, row_stride]
  float *p, *ds;               // [tile_rows, score_stride]
  float* nowhere;
};

inline Matrix of_head(Matrix m, std::int64_t elements, const ItemShape& s) {
  return {static_cast<char*>(m.data) + elements * (s.dtype == DType::f32 ? 4 : 2), m.stride};
}

// What a row of a head starts from: its lse in log2 units, what rounding left of that, and delta - dlse.
inline void begin_row(const BackwardItem& item, std::int64_t head, std::int64_t row, float product, float& lse,
                      float& lse_rest, float& delta) {
  const double exact = 1.4426950408889634 * static_cast<double>(item.lse[head * item.lse_head + row * item.lse_stride]);
  lse = static_cast<float>(exact);
  const float rest = static_cast<float>(exact - lse);
  lse_rest = rest == rest ? rest : 0.0f;  // an infinite lse leaves no rest
  delta = product - (item.dlse ? item.dlse[head * item.dlse_head + row * item.dlse_stride] : 0.0f);
}

// Gradients of padding text, by the items that do so.
inline void clear_gradients_of_padding(const BackwardItem& item) {
  const ItemShape& s = item.shape;
  for (std::int64_t row = s.text_begin + s.text_valid; row < s.text_begin + (s.rows - s.tokens); ++row) {
    for (std::int64_t head = 0; head < item.heads && item.first == 0; ++head) {
      clear_row(row_of_output(of_head(item.dq, head * item.dq_head, s), s, row), s);
    }
    if (item.begins) {
      clear_row(row_of_output(item.dk, s, row), s);
      clear_row(row_of_output(item.dv, s, row), s);
    }
  }
}

// fp32 copies of q (0), its sign turned, and dout (1) of a row, where the item has them.
inline float* copied_row(const Backward& f, int which, std::int64_t head, std::int64_t at) {
  const std::int64_t n = f.item.last - f.item.first;
  return f.item.rows + ((which * f.item.heads + head) * n + at) * f.stride;
}
inline void copy_row(float* to, const float* from, std::int64_t width) {
  for (std::int64_t d = 0; d < width; d += lanes) store(to + d, load(from + d));
}

// Where dq of a row is summed.
inline float* dq_row(const Backward& f, std::int64_t head, std::int64_t at) {
  const BackwardItem& item = f.item;
  if (item.dq_sum) return item.dq_sum + (head * (item.last - item.first) + at) * f.width;
  return static_cast<float*>(item.dq.data) + head * item.dq_head + item.shape.row(item.first + at) * item.dq.stride;
}

// Rows of a group: where the item has them, or copied side by side first, which pays where a tile reads them often. A
// register tile of AVX-512 has twelve rows, more than there are registers for their addresses.
constexpr int keys_for_copies = registers == 16 ? few_keys : 0;  // in tiles of more keys rows are copied
struct GroupRows {
  const float* copies;
  const float* const* rows;  // null: copied
};
// Rows times a panel of keys, summed over D in one chain.
template <int Vecs, int BK>
inline void row_product(const GroupRows& a, const float* b, int count, int dim, Regular to) {
  if (a.rows) {
    multiply_rows<Vecs, BK, false>(a.rows, b, count, dim, to, false);
  } else {
    multiply_panel<Vecs, false, row_stride, 1>(a.copies, Packed<BK>{b}, count, dim, to);
  }
}
// Weights, turned, times columns of rows: added to dk or dv.
template <int Vecs>
inline void add_product_of_rows(const float* weights, const GroupRows& b, int column, int keys, int count, Regular to) {
  if (b.rows) {
    multiply_panel<Vecs, true, 1, score_stride>(weights, Anywhere{b.rows, column}, keys, count, to);
  } else {
    multiply_panel<Vecs, true, 1, score_stride>(weights, Packed<row_stride>{b.copies + column}, keys, count, to);
  }
}

// One group of at most tile_rows rows of one head against one tile of keys; the `following` rows at `after` come next.
inline void backward_group(Backward& f, const KeyTile& tile, Ahead& ahead, std::int64_t head, const std::int32_t* list,
                           int rows, const std::int32_t* after, int following) {
  const BackwardItem& item = f.item;
  const ItemShape& s = item.shape;
  const int dim = static_cast<int>(s.dim), vectors = tile.vectors(), columns = (dim + lanes - 1) / lanes;
  const std::int64_t n = item.last - item.first;
  const Matrix q = of_head(item.q, head * item.q_head, s), dout = of_head(item.dout, head * item.dout_head, s);
  const Vec sign = set(f.scale.sign), c = set(f.scale.magnitude);
  const bool in_place = item.rows && tile.count <= keys_for_copies;
  const float *q_rows[tile_rows + row_slack], *dout_rows[tile_rows + row_slack];
  float* targets[tile_rows + row_slack];
  for (int i = 0; i < rows; ++i) {
    targets[i] = dq_row(f, head, list[i]);
    float *to_q = f.q + i * row_stride, *to_dout = f.dout + i * row_stride;
    if (in_place) {
      q_rows[i] = copied_row(f, 0, head, list[i]);
      dout_rows[i] = copied_row(f, 1, head, list[i]);
    } else if (item.rows) {
      // Asked for a group ago and in L2 at best since: 48 rows of both are more than L1 (0.96 to 1.00 of the time).
      if (i + 3 < rows) {
        ask_for_row(copied_row(f, 0, head, list[i + 3]), dim);
        ask_for_row(copied_row(f, 1, head, list[i + 3]), dim);
      }
      copy_row(to_q, copied_row(f, 0, head, list[i]), f.width);
      copy_row(to_dout, copied_row(f, 1, head, list[i]), f.width);
    } else {
      widen_row(to_q, row_of(q, s, item.first + list[i]), s, sign);
      widen_row(to_dout, row_of(dout, s, item.first + list[i]), s, set(1.0f));
    }
  }
  for (int i = rows; i < rows + row_slack; ++i) q_rows[i] = dout_rows[i] = targets[i] = f.nowhere;
  const GroupRows of_q{f.q, in_place ? q_rows : nullptr}, of_dout{f.dout, in_place ? dout_rows : nullptr};
  // q and dout of the next group are asked for as well: rows are spread over more than L2 holds. All of their columns
  // at once, unlike those of dq: two products each want them soon.
  const int panels = (columns + 1) / 2;
  RowsAhead inputs{following, (following + panels - 1) / panels};

  for (int g = 0; g < vectors; g += 2) {
    const std::int64_t at = (g / 2) * s.dim * panel;
    const Regular p{f.p + g * lanes, score_stride}, ds{f.ds + g * lanes, score_stride};
    if (g + 1 < vectors) {
      row_product<2, panel>(of_q, f.kt + at, rows, dim, p);
      row_product<2, panel>(of_dout, f.vt + at, rows, dim, ds);
    } else {
      row_product<1, lanes>(of_q, f.kt + at, rows, dim, p);
      row_product<1, lanes>(of_dout, f.vt + at, rows, dim, ds);
    }
    ahead.step();
  }
  for (int i = 0; i < rows; ++i) {
    ask_ahead({targets, 0, 0}, i);
    float *p = f.p + i * score_stride, *ds = f.ds + i * score_stride;
    const std::int64_t at = head * n + list[i];
    const Vec lse = set(-f.lse[at]), rest = set(f.lse_rest[at]), delta = set(f.delta[at]);
    for (int j = 0; j < vectors; ++j) {
      // No weight is above 1: an fp32 lse of 1e9 may lie 32 below or above the greatest logit.
      const Vec x = min(zero(), sub(fma(load(p + j * lanes), c, lse), rest));
      const Vec y = exp2(x);
      store(p + j * lanes, y);
      store(ds + j * lanes, mul(y, sub(load(ds + j * lanes), delta)));
    }
  }

  for (int g = 0; g < columns; g += 2) {
    const Regular dv{f.dv + g * lanes, f.stride}, dk{f.dk + g * lanes, f.stride};
    const Scattered dq{targets, g * lanes, g + 2 < columns ? panel : 0};
    const float* b = f.k + static_cast<std::int64_t>(g / 2) * tile.count * panel;
    if (g + 1 < columns) {
      add_product_of_rows<2>(f.p, of_dout, g * lanes, tile.count, rows, dv);
      add_product_of_rows<2>(f.ds, of_q, g * lanes, tile.count, rows, dk);
      multiply_panel<2, true, score_stride, 1>(f.ds, Packed<panel>{b}, rows, tile.count, dq);
    } else {
      add_product_of_rows<1>(f.p, of_dout, g * lanes, tile.count, rows, dv);
      add_product_of_rows<1>(f.ds, of_q, g * lanes, tile.count, rows, dk);
      multiply_panel<1, true, score_stride, 1>(f.ds, Packed<lanes>{b}, rows, tile.count, dq);
    }
    ahead.step();
    inputs.step([&](int i) {
      if (item.rows) {
        ask_for_row(copied_row(f, 0, head, after[i]), dim);
        ask_for_row(copied_row(f, 1, head, after[i]), dim);
      } else {
        ask_for_row(q, s, item.first + after[i]);
        ask_for_row(dout, s, item.first + after[i]);
      }
    });
  }
}

// delta of lanes rows from index `first` on. Summed over D in the order of dout v^T, so that dp - delta of a row with
// one key is exactly 0.
template <class Element>
inline Vec row_products(const Matrix& out, const Matrix& dout, const ItemShape& s, std::int64_t first, int rows,
                        Element e) {
  using Type = typename Storage<Element>::Type;
  Vec total = zero();
  for (std::int64_t d = 0; d < s.dim; d += lanes) {
    Vec a[lanes], b[lanes];
    for (int i = 0; i < lanes; ++i) {
      const std::int64_t index = first + (i < rows ? i : 0);
      a[i] = load_row(static_cast<const Type*>(row_of(out, s, index)), d, s.dim, e);
      b[i] = load_row(static_cast<const Type*>(row_of(dout, s, index)), d, s.dim, e);
    }
    transpose(a);
    transpose(b);
    for (int i = 0; i < lanes; ++i) total = fma(b[i], a[i], total);
  }
  return total;
}

// lse and delta of the item's rows, dq cleared, q and dout copied where the item has room for them.
inline void begin_rows(Backward& f) {
  const BackwardItem& item = f.item;
  const ItemShape& s = item.shape;
  const std::int64_t n = item.last - item.first;
  for (std::int64_t head = 0; head < item.heads; ++head) {
    const Matrix q = of_head(item.q, head * item.q_head, s), out = of_head(item.out, head * item.out_head, s);
    const Matrix dout = of_head(item.dout, head * item.dout_head, s);
    for (std::int64_t i = 0; i < n; i += lanes) {
      const int rows = n - i < lanes ? static_cast<int>(n - i) : lanes;
      float delta[lanes];
      with_element(s.dtype, [&](auto e) { store(delta, row_products(out, dout, s, item.first + i, rows, e)); });
      for (int j = 0; j < rows; ++j) {
        const std::int64_t at = head * n + i + j;
        begin_row(item, head, s.row(item.first + i + j), delta[j], f.lse[at], f.lse_rest[at], f.delta[at]);
        float* dq = dq_row(f, head, i + j);
        const std::int64_t floats = item.dq_sum ? f.width : s.dim;
        for (std::int64_t d = 0; d < floats; ++d) dq[d] = 0.0f;
        if (i + rows_ahead + j < n) {
          ask_for_row(out, s, item.first + i + rows_ahead + j);
          ask_for_row(dout, s, item.first + i + rows_ahead + j);
          if (item.rows) ask_for_row(q, s, item.first + i + rows_ahead + j);
        }
        if (!item.rows) continue;
        float *copy_of_q = copied_row(f, 0, head, i + j), *copy_of_dout = copied_row(f, 1, head, i + j);
        for (std::int64_t d = s.dim & -16; d < f.width; d += lanes) {
          store(copy_of_q + d, zero());
          store(copy_of_dout + d, zero());
        }
        widen_row(copy_of_q, row_of(q, s, item.first + i + j), s, set(f.scale.sign));
        widen_row(copy_of_dout, row_of(dout, s, item.first + i + j), s, set(1.0f));
      }
    }
  }
}

inline void begin_tile(Backward& f, const KeyTile& tile) {
  const BackwardItem& item = f.item;
  const ItemShape& s = item.shape;
  const int length = tile.vectors() * lanes;
  for (int j = 0; j < length; ++j) {
    float *dk = f.dk + j * f.stride, *dv = f.dv + j * f.stride;
    if (item.begins || j >= tile.count) {
      for (std::int64_t d = 0; d < f.width; d += lanes) {
        store(dk + d, zero());
        store(dv + d, zero());
      }
      continue;
    }
    const float* dk_from = item.dk_sum + s.row(tile.index(j)) * item.dk_sum_stride;
    const float* dv_from = item.dv_sum + s.row(tile.index(j)) * item.dv_sum_stride;
    for (std::int64_t d = 0; d < f.width; d += lanes) {
      store(dk + d, load_row(dk_from, d, s.dim, F32{}));
      store(dv + d, load_row(dv_from, d, s.dim, F32{}));
    }
  }
}
inline void end_tile(Backward& f, const KeyTile& tile) {
  const BackwardItem& item = f.item;
  const ItemShape& s = item.shape;
  const Vec scale = set(static_cast<float>(__builtin_fabs(s.scale))), one = set(1.0f);
  for (int j = 0; j < tile.count; ++j) {
    const float *dk = f.dk + j * f.stride, *dv = f.dv + j * f.stride;
    const std::int64_t row = s.row(tile.index(j));
    if (item.ends) {
      narrow_row(row_of_output(item.dk, s, row), dk, s, scale);
      narrow_row(row_of_output(item.dv, s, row), dv, s, one);
      continue;
    }
    for (std::int64_t d = 0; d < s.dim; d += lanes) {
      store_row(item.dk_sum + row * item.dk_sum_stride, d, s.dim, load(dk + d), F32{});
      store_row(item.dv_sum + row * item.dv_sum_stride, d, s.dim, load(dv + d), F32{});
    }
  }
}

void attend_backward(const BackwardItem& item) {
  const FlushSubnormals flush;
  const ItemShape& s = item.shape;
  const std::int64_t n = item.last - item.first, width = padded(s.dim), stride = spread(s.dim);
  Cutter memory{item.scratch};
  Backward f{item,    scale_of(s), width,   stride,  nullptr, nullptr, nullptr, nullptr, nullptr,
             nullptr, nullptr,     nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  f.lse = memory.cut<float>(item.heads * n);
  f.lse_rest = memory.cut<float>(item.heads * n);
  f.delta = memory.cut<float>(item.heads * n);
  std::int32_t* list = memory.cut<std::int32_t>(n);
  float* const own_panels = memory.cut<float>(2 * (tile_keys + 16) * width);
  f.k = memory.cut<float>((tile_keys + 16) * width);
  f.dk = memory.cut<float>((tile_keys + 16) * stride);
  f.dv = memory.cut<float>((tile_keys + 16) * stride);
  f.q = memory.cut<float>((tile_rows + row_slack) * row_stride);
  f.dout = memory.cut<float>((tile_rows + row_slack) * row_stride);
  f.p = memory.cut<float>((tile_rows + row_slack) * score_stride);
  f.ds = memory.cut<float>((tile_rows + row_slack) * score_stride);
  f.nowhere = memory.cut<float>(row_stride);
  // Rows beyond a group are computed and dropped; they start as zeros, not as whatever the memory held.
  __builtin_memset(f.q, 0, sizeof(float) * (tile_rows + row_slack) * row_stride);
  __builtin_memset(f.dout, 0, sizeof(float) * (tile_rows + row_slack) * row_stride);
  __builtin_memset(f.p, 0, sizeof(float) * (tile_rows + row_slack) * score_stride);
  __builtin_memset(f.ds, 0, sizeof(float) * (tile_rows + row_slack) * score_stride);
  __builtin_memset(f.nowhere, 0, sizeof(float) * row_stride);
  begin_rows(f);

  std::int64_t turn = 0;
  float* panels = item.panels;  // of the next tile
  for (std::int64_t c = 0; c < key_blocks(s); ++c) {
    const std::int64_t keys = key_count(s, c);
    if (keys == 0) continue;
    const int length = tile_length(keys);
    for (std::int64_t begin = 0; begin < keys; begin += length, ++turn) {
      const KeyTile tile = key_tile(s, c, begin, begin + length < keys ? begin + length : keys);
      const std::int64_t floats = tile_floats(tile.count, s.dim);
      f.kt = panels ? panels : own_panels;
      f.vt = f.kt + floats / 2;
      if (panels) panels += floats;
      const bool packs = !panels || item.begins;
      const auto pack_transposed = [&] {
        pack_columns(f.kt, item.k, s, tile);
        pack_columns(f.vt, item.v, s, tile);
      };
      bool packed = false;
      if (!item.begins) item.wait(item.turn, turn);
      begin_tile(f, tile);
      if (panels && packs) pack_transposed();
      const KeyTile next = next_tile(s, c, begin, length);
      for (std::int64_t head = 0; head < item.heads; ++head) {
        const std::uint64_t* selection = item.selection ? item.selection + head * s.blocks * s.words : nullptr;
        const std::int64_t rows = list_rows(list, s, selection, c, item.first, item.last);
        if (rows == 0) continue;
        if (!packed) {
          if (!panels) pack_transposed();
          pack_rows(f.k, item.k, s, tile, static_cast<float>(s.scale));
          packed = true;
        }
        Ahead ahead = ahead_of(&item.k, packs ? &item.v : nullptr, s, tile, next, rows);
        for (std::int64_t i = 0; i < rows; i += tile_rows) {
          const auto count = [&](std::int64_t begin) {
            return static_cast<int>(rows - begin < tile_rows ? rows - begin : tile_rows);
          };
          // The rows of a block start over with its next tile.
          const std::int64_t after = i + tile_rows < rows ? i + tile_rows : 0;
          backward_group(f, tile, ahead, head, list + i, count(i), list + after, count(after));
        }
      }
      end_tile(f, tile);
      if (!item.ends) item.leave(item.turn, turn);
    }
  }

  if (item.dq_sum) {
    for (std::int64_t head = 0; head < item.heads; ++head) {
      const Matrix dq = of_head(item.dq, head * item.dq_head, s);
      for (std::int64_t i = 0; i < n; ++i) {
        if (i + rows_ahead < n) ask_for_row<true>(dq, s, item.first + i + rows_ahead);
        narrow_row(row_of_output(dq, s, s.row(item.first + i)), dq_row(f, head, i), s, set(1.0f));
      }
    }
  }
  clear_gradients_of_padding(item);
}
