// SPDX-License-Identifier: Apache-2.0
// Rows of q, k, v and dout as operands of tile products (layout: tile.hpp).

// The row at `index` as deep(D) values: the tensor's own, or a copy in `spare` with zeros behind.
inline const std::uint16_t* whole_row(const Matrix& m, const ItemShape& s, std::int64_t index, std::uint16_t* spare) {
  const std::uint16_t* row = static_cast<const std::uint16_t*>(row_of(m, s, index));
  if (s.dim % tile_depth == 0) return row;
  __builtin_memcpy(spare, row, static_cast<unsigned long>(s.dim) * 2);
  __builtin_memset(spare + s.dim, 0, static_cast<unsigned long>(deep(s.dim) - s.dim) * 2);
  return spare;
}

// Row i of A: its 32-value parts go to the tiles of the strip.
inline void gather_row(std::uint16_t* strips, std::int64_t strip, int i, const std::uint16_t* row, std::int64_t depth) {
  std::uint16_t* to = strips + i / 16 * strip + i % 16 * 32;
  for (std::int64_t d = 0; d < depth; d += 32, to += tile_size) {
    for (int j = 0; j < 32; j += 2 * lanes) store_pairs(to + j, load_pairs(row + d + j));
  }
}
inline void clear_row_of_strip(std::uint16_t* strips, std::int64_t strip, int i, std::int64_t depth) {
  std::uint16_t* to = strips + i / 16 * strip + i % 16 * 32;
  for (std::int64_t d = 0; d < depth; d += 32, to += tile_size) __builtin_memset(to, 0, 64);
}

// 16 x 16 pairs, transposed: row r of `to` takes pair r of every one of the 16 rows.
inline void transpose_pairs(std::uint16_t* to, const std::uint16_t* const* rows) {
  for (int i = 0; i < 16; i += lanes) {
    for (int r = 0; r < 16; r += lanes) {
      Vec x[lanes];
      for (int j = 0; j < lanes; ++j) x[j] = load_pairs(rows[i + j] + 2 * r);
      transpose(x);
      for (int j = 0; j < lanes; ++j) store_pairs(to + (r + j) * 32 + i * 2, x[j]);
    }
  }
}

// 32 rows of A transposed: 16 columns of D become the rows of a tile of A whose k runs over the 32 rows.
inline void transpose_rows(std::uint16_t* to, const std::uint16_t* strips, std::int64_t strip) {
  for (int i = 0; i < 16; i += lanes) {
    for (int d = 0; d < 16; d += lanes) {
      Vec x[lanes];
      for (int j = 0; j < lanes; ++j) {
        const std::uint16_t* even = strips + (i + j) / 8 * strip + (i + j) % 8 * 64 + d;
        x[j] = pair_up(even, even + 32);
      }
      transpose(x);
      for (int j = 0; j < lanes; ++j) store_pairs(to + (d + j) * 32 + i * 2, x[j]);
    }
  }
}

// B panels of x k^T: columns are the tile's keys, k runs over D. Columns beyond count, in the last 16, are 0.
// spare: 17 deep rows.
inline void pack_keys(std::uint16_t* to, const Matrix& m, const ItemShape& s, const KeyTile& tile,
                      std::uint16_t* spare) {
  const std::int64_t depth = deep(s.dim), steps = depth / tile_depth;
  const int columns = (tile.count + 15) / 16;
  std::uint16_t* zeros = spare + 16 * depth;
  __builtin_memset(zeros, 0, static_cast<unsigned long>(depth) * 2);
  for (int n = 0; n < columns; ++n) {
    const std::uint16_t* rows[16];
    for (int i = 0; i < 16; ++i) {
      const int j = n * 16 + i;
      rows[i] = j < tile.count ? whole_row(m, s, tile.index(j), spare + i * depth) : zeros;
    }
    const int of_panel = (n | 1) < columns ? 2 : 1;
    std::uint16_t* panel_to = to + n / 2 * steps * 2 * tile_size + n % 2 * tile_size;
    for (std::int64_t k = 0; k < steps; ++k) {
      transpose_pairs(panel_to + k * of_panel * tile_size, rows);
      for (int i = 0; i < 16; ++i) rows[i] += tile_depth;
    }
  }
}

// B panels of p v: columns are D (in whole 16s), k runs over the tile's keys. Keys beyond count, in the last 32, are 0.
// spare: 3 deep rows.
inline void pack_values(std::uint16_t* to, const Matrix& m, const ItemShape& s, const KeyTile& tile,
                        std::uint16_t* spare) {
  const std::int64_t depth = deep(s.dim);
  const int columns = static_cast<int>(padded(s.dim) / 16), steps = (tile.count + 31) / 32;
  std::uint16_t* zeros = spare + 2 * depth;
  __builtin_memset(zeros, 0, static_cast<unsigned long>(depth) * 2);
  for (int j = 0; j < steps * 32; j += 2) {
    const std::uint16_t* even = j < tile.count ? whole_row(m, s, tile.index(j), spare) : zeros;
    const std::uint16_t* odd = j + 1 < tile.count ? whole_row(m, s, tile.index(j + 1), spare + depth) : zeros;
    std::uint16_t* row = to + j % 32 * 16;
    for (int n = 0; n < columns; ++n) {
      const int of_panel = (n | 1) < columns ? 2 : 1;
      std::uint16_t* there =
          row + (static_cast<std::int64_t>(n / 2) * steps * 2 + n % 2 + j / 32 * of_panel) * tile_size;
      for (int i = 0; i < 16; i += lanes) store_pairs(there + 2 * i, pair_up(even + n * 16 + i, odd + n * 16 + i));
    }
  }
}

// A block's keys in tiles of equal length, in whole steps of 32.
inline int whole_tile_length(std::int64_t keys) {
  const std::int64_t tiles = (keys + tile_keys - 1) / tile_keys;
  return static_cast<int>(((keys + tiles - 1) / tiles + tile_depth - 1) / tile_depth * tile_depth);
}
