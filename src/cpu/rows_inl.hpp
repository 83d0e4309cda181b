// SPDX-License-Identifier: Apache-2.0
// Rows in and out: widening, rounding, packing keys and values into panels, and the list of rows that attend a block.

// Calls f(tag) with the element tag of a dtype (attend takes f32, bf16, f16).
template <class F>
inline void with_element(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(F32{});
  if (dtype == DType::bf16) return f(Bf16{});
  f(F16{});
}
template <class Element>
struct Storage {
  using Type = std::uint16_t;
};
template <>
struct Storage<F32> {
  using Type = float;
};

// lanes values at d of a row of dim, which may end within them (dim is a multiple of 8): zeros follow.
template <class Element>
inline Vec load_row(const typename Storage<Element>::Type* row, std::int64_t d, std::int64_t dim, Element e) {
  if (d + lanes <= dim) return load(row + d, e);
  typename Storage<Element>::Type part[lanes] = {};
  for (std::int64_t i = d; i < dim; ++i) part[i - d] = row[i];
  return load(part, e);
}
template <class Element>
inline void store_row(typename Storage<Element>::Type* row, std::int64_t d, std::int64_t dim, Vec x, Element e) {
  if (d + lanes <= dim) return store(row + d, x, e);
  typename Storage<Element>::Type part[lanes];
  store(part, x, e);
  for (std::int64_t i = d; i < dim; ++i) row[i] = part[i - d];
}

inline const void* row_of(const Matrix& m, const ItemShape& s, std::int64_t index) {
  return static_cast<const char*>(m.data) + s.row(index) * m.stride * (s.dtype == DType::f32 ? 4 : 2);
}
inline void* row_of_output(const Matrix& m, const ItemShape& s, std::int64_t row) {
  return static_cast<char*>(m.data) + row * m.stride * (s.dtype == DType::f32 ? 4 : 2);
}

// to[0 .. dim rounded up to lanes) = row * factor
inline void widen_row(float* to, const void* row, const ItemShape& s, Vec factor) {
  with_element(s.dtype, [&](auto e) {
    const auto* from = static_cast<const typename Storage<decltype(e)>::Type*>(row);
    for (std::int64_t d = 0; d < s.dim; d += lanes) store(to + d, mul(load_row(from, d, s.dim, e), factor));
  });
}
inline void narrow_row(void* row, const float* from, const ItemShape& s, Vec factor) {
  with_element(s.dtype, [&](auto e) {
    auto* to = static_cast<typename Storage<decltype(e)>::Type*>(row);
    for (std::int64_t d = 0; d < s.dim; d += lanes) store_row(to, d, s.dim, mul(load(from + d), factor), e);
  });
}
inline void clear_row(void* row, const ItemShape& s) {
  __builtin_memset(row, 0, static_cast<unsigned long>(s.dim) * (s.dtype == DType::f32 ? 4 : 2));
}

// Logits in log2 units are magnitude * (turned q . k), and the sign of the scale is folded into q, so that the largest
// product is the largest logit. A softmax subtracts its reference, a product as well, before it scales: the difference
// of the greatest is 0 then, however large it is, while magnitude * product - round(magnitude * reference) is what the
// rounding left, more than an exponential takes for logits beyond 1e9.
struct Scale {
  float sign;       // 1 or -1
  float magnitude;  // |scale| log2(e)
};
// The reference of a row whose logits are all -infinity so far: below every finite logit, and no NaN in a difference.
constexpr float lowest = -3.4028234663852886e38f;
inline Scale scale_of(const ItemShape& s) {
  return {s.scale < 0 ? -1.0f : 1.0f, static_cast<float>(__builtin_fabs(s.scale) * 1.4426950408889634)};
}

// Up to tile_keys keys of one block, by index.
struct KeyTile {
  const std::int32_t* list;  // null: consecutive
  std::int64_t first;
  int count;
  std::int64_t index(int j) const { return list ? list[j] : first + j; }
  int vectors() const { return (count + lanes - 1) / lanes; }
};

// Asks for a row of a tensor where it lies, into L1; Written: for one that is written.
template <bool Written = false>
inline void ask_for_row(const Matrix& m, const ItemShape& s, std::int64_t index) {
  const char* row = static_cast<const char*>(row_of(m, s, index));
  ask_for<Written>(row, s.dim * (s.dtype == DType::f32 ? 4 : 2));
}

// Transposed panels [panels][D][panel] (an odd last vector: [D][lanes]): the B of q k^T. Keys beyond count are 0.
inline void pack_columns(float* to, const Matrix& m, const ItemShape& s, const KeyTile& tile) {
  with_element(s.dtype, [&](auto e) {
    using Type = typename Storage<decltype(e)>::Type;
    const int vectors = tile.vectors();
    for (int g = 0; g < vectors; ++g) {
      const int width = g + 1 == vectors && g % 2 == 0 ? lanes : panel;
      float* base = to + (g / 2) * s.dim * panel + (g % 2) * lanes;
      const Type* rows[lanes];
      for (int i = 0; i < lanes; ++i) {
        const int j = g * lanes + i;
        rows[i] = j < tile.count ? static_cast<const Type*>(row_of(m, s, tile.index(j))) : nullptr;
      }
      for (std::int64_t d = 0; d < s.dim; d += lanes) {
        Vec x[lanes];
        // Rows lie heads x D apart: those of the next vector are asked for meanwhile.
        for (int j = (g + 1) * lanes; d % 16 == 0 && j < tile.count && j < (g + 2) * lanes; ++j) {
          __builtin_prefetch(static_cast<const Type*>(row_of(m, s, tile.index(j))) + d, 0, 3);
        }
        for (int i = 0; i < lanes; ++i) x[i] = rows[i] ? load_row(rows[i], d, s.dim, e) : zero();
        transpose(x);
        const int there = s.dim - d < lanes ? static_cast<int>(s.dim - d) : lanes;
        for (int i = 0; i < there; ++i) store(base + (d + i) * width, x[i]);
      }
    }
  });
}

// Row panels [panels][count][panel] (an odd last vector: [count][lanes]): the B of p v. Columns beyond D are 0.
inline void pack_rows(float* to, const Matrix& m, const ItemShape& s, const KeyTile& tile, float factor) {
  with_element(s.dtype, [&](auto e) {
    using Type = typename Storage<decltype(e)>::Type;
    const std::int64_t vectors = (s.dim + lanes - 1) / lanes;
    const Vec f = set(factor);
    for (int j = 0; j < tile.count; ++j) {
      const Type* row = static_cast<const Type*>(row_of(m, s, tile.index(j)));
      if (j + 4 < tile.count) ask_for_row(m, s, tile.index(j + 4));
      for (std::int64_t g = 0; g < vectors; ++g) {
        const std::int64_t width = g + 1 == vectors && g % 2 == 0 ? lanes : panel;
        store(to + (g / 2) * tile.count * panel + j * width + (g % 2) * lanes,
              mul(load_row(row, g * lanes, s.dim, e), f));
      }
    }
  });
}

// The key blocks of a sample in the order they are attended: its blocks, then valid text; dense: one block of all.
inline std::int64_t key_blocks(const ItemShape& s) { return s.dense ? 1 : s.blocks + (s.text_valid > 0 ? 1 : 0); }
inline std::int64_t key_count(const ItemShape& s, std::int64_t c) {
  if (s.dense) return s.indices();
  return c < s.blocks ? s.block_begin[c + 1] - s.block_begin[c] : s.text_valid;
}
// A block's keys in tiles of equal length, so that none is left with a few keys only; whole panels, so that no vector
// stands alone, whose sums wait for each other (576 keys: five tiles of 120 took 1.02 of the time of a backward).
inline int tile_length(std::int64_t keys) {
  const std::int64_t tiles = (keys + tile_keys - 1) / tile_keys;
  return static_cast<int>(((keys + tiles - 1) / tiles + panel - 1) / panel * panel);
}
inline KeyTile key_tile(const ItemShape& s, std::int64_t c, std::int64_t begin, std::int64_t end) {
  if (s.dense) return {nullptr, begin, static_cast<int>(end - begin)};
  if (c < s.blocks) return {s.block_order + s.block_begin[c] + begin, 0, static_cast<int>(end - begin)};
  return {nullptr, s.tokens + begin, static_cast<int>(end - begin)};
}

// The tile after the one that begins at `begin` of block c; empty after the last.
inline KeyTile next_tile(const ItemShape& s, std::int64_t c, std::int64_t begin, int length) {
  begin += length;
  std::int64_t keys = key_count(s, c);
  for (; begin >= keys && ++c < key_blocks(s); begin = 0) length = tile_length(keys = key_count(s, c));
  if (c >= key_blocks(s)) return {nullptr, 0, 0};
  return key_tile(s, c, begin, begin + length < keys ? begin + length : keys);
}

// Where all rows of an item are read or written in turn, they are asked for so many before: they lie heads x D apart,
// which the hardware does not foresee (0.96 to 0.99 of the time of a forward at density .15).
constexpr int rows_ahead = 8;

// Asks for `count` rows a few at a time, between products: all at once they fill the buffers of outstanding misses, and
// the next loads wait for those (9 % of the time of a dense backward was the copy of rows asked for so).
struct RowsAhead {
  int count, share;
  int next = 0;
  template <class Ask>
  void step(Ask&& ask) {
    for (int end = count - next < share ? count : next + share; next < end; ++next) ask(next);
  }
};

// Asks for the keys and values of the next tile while this one is worked on, a few rows after every panel: packing read
// them from L3, and waited, for 15 % of the time of a tile of 12 keys; and asked for all
// in one go they helped less (76 against 81 % of 1/density at density .14).
struct Ahead {
  const Matrix *k, *v;  // v null: its rows are not wanted
  const ItemShape& s;
  KeyTile tile;
  RowsAhead rows;
  void step() {
    rows.step([this](int j) {
      ask_for_row(*k, s, tile.index(j));
      if (v) ask_for_row(*v, s, tile.index(j));
    });
  }
};
// For groups of `rows` query rows, each with a step after every panel of the current tile's keys and of D.
inline Ahead ahead_of(const Matrix* k, const Matrix* v, const ItemShape& s, const KeyTile& now, const KeyTile& next,
                      std::int64_t rows) {
  const std::int64_t panels = (now.count + panel - 1) / panel + (s.dim + panel - 1) / panel;
  const std::int64_t steps = (rows + tile_rows - 1) / tile_rows * panels;
  return {k, v, s, next, {next.count, static_cast<int>((next.count + steps - 1) / steps)}};
}

// Query indices of [first, last) that attend block c, less first, in ascending order wherever the indices are cut: sums
// over rows depend on it.
inline std::int64_t list_rows(std::int32_t* list, const ItemShape& s, const std::uint64_t* selection, std::int64_t c,
                              std::int64_t first, std::int64_t last) {
  std::int64_t n = 0;
  if (s.dense || c == s.blocks) {
    for (std::int64_t i = 0; i < last - first; ++i) list[n++] = static_cast<std::int32_t>(i);
    return n;
  }
  const std::uint64_t* words = selection + c * s.words;
  const std::int64_t end = last < s.tokens ? last : s.tokens;  // of video
  if (s.query_label) {
    for (std::int64_t t = first; t < end; ++t) {
      const std::int64_t r = s.query_label[t];
      if (words[r / 64] >> (r % 64) & 1) list[n++] = static_cast<std::int32_t>(t - first);
    }
  } else if (first < end) {
    for (std::int64_t w = first / 64; w <= (end - 1) / 64; ++w) {
      std::uint64_t bits = words[w];
      if (w == first / 64) bits &= ~std::uint64_t{0} << (first % 64);
      if (w == (end - 1) / 64) bits &= ~std::uint64_t{0} >> (63 - (end - 1) % 64);
      const std::int32_t base = static_cast<std::int32_t>(w * 64 - first);
      for (; bits; bits &= bits - 1) list[n++] = base + __builtin_ctzll(bits);
    }
  }
  for (std::int64_t i = first > s.tokens ? first : s.tokens; i < last; ++i)
    list[n++] = static_cast<std::int32_t>(i - first);
  return n;
}

// Cuts scratch memory into aligned pieces.
struct Cutter {
  char* next;
  template <class Type>
  Type* cut(std::int64_t count) {
    Type* piece = reinterpret_cast<Type*>(next);
    next += aligned(count * static_cast<std::int64_t>(sizeof(Type)));
    return piece;
  }
};

// Results below the normal range become 0 while an item runs: a far key must not cost a hundred times a near one.
struct FlushSubnormals {
#if defined(__x86_64__)
  unsigned saved = _mm_getcsr();
  FlushSubnormals() { _mm_setcsr(saved | 0x8000); }
  ~FlushSubnormals() { _mm_setcsr(saved); }
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
#if !defined(__x86_64__)
  FlushSubnormals() {}
#endif
};

// The end of a forward item: sums / total and the lse to every row, from its fp32 sums [rows, stride], reference (a
// product of turned q and k) and total [rows]; padding text cleared by the item that does so.
inline void finish_rows(const AttendItem& item, float* sums, std::int64_t stride, const float* reference,
                        const float* total) {
  const ItemShape& s = item.shape;
  const std::int64_t n = item.last - item.first, width = padded(s.dim);
  const double unit = scale_of(s).magnitude;  // rounded as in the weights, and so in attend_backward
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t row = s.row(item.first + i);
    if (i + rows_ahead < n) ask_for_row<true>(item.out, s, item.first + i + rows_ahead);
    const bool empty = reference[i] == -__builtin_inff();
    float* out = sums + i * stride;
    // All logits of a row -infinity: as in reference, whose greatest less itself is no number.
    const float sum = reference[i] == lowest ? __builtin_nanf("") : total[i];
    const Vec divisor = set(empty ? 1.0f : sum), one = set(1.0f);
    for (std::int64_t d = 0; d < width; d += lanes) store(out + d, div(load(out + d), divisor));
    narrow_row(row_of_output(item.out, s, row), out, s, one);
    if (item.lse) {
      const double natural = 0.6931471805599453 * (unit * static_cast<double>(reference[i]) + __builtin_log2(sum));
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
