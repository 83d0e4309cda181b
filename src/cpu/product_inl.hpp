// SPDX-License-Identifier: Apache-2.0
// Register tiles: C[rows][columns] (+)= A B for panels of B, the one inner loop of attend and attend_backward.
//
// A register tile is `most` rows by two vectors (12 x 32 of AVX-512, 6 x 16 of AVX2: accumulators, one row of B and one
// broadcast fill the register file, and a vector of B feeds as many multiply-adds as the load ports need). Every
// element of C is summed in ascending k, one fused multiply-add at a time, so the value does not depend on the tile it
// fell into.
//
// A panel is a function of its own, with its register tiles inside: inlined into attend() or backward_group(), whose
// pointers fill the integer registers, the compiler kept the counter of an inner loop in memory, in one place or
// another with every change around it (2 of 26 instructions of q k^T on AVX2).

constexpr int most = registers == 32 ? 12 : 6;
constexpr int panel = 2 * lanes;  // columns of a full panel

// Where a row of C lies: rows at a stride, or anywhere.
struct Regular {
  float* base;
  std::int64_t stride;
  float* operator()(int i) const { return base + i * stride; }
};
struct Scattered {
  float* const* rows;
  std::int64_t column;
  std::int64_t ahead;  // columns from here to the next panel's, which are asked for; 0: this is the last
  float* operator()(int i) const { return rows[i] + column; }
};
// Asks for what a product will add to next. Rows that lie anywhere are more than L2 holds, and a panel of theirs is a
// line or two of each: asked for a panel ahead they are there in time and push nothing out that is in use (12, 48 and
// 128 keys: 0.92, 0.94 and 0.96 of the time of a forward that asks for whole rows or not at all). Rows at a stride are
// the sums of dk and dv, in L2: those of the next register tile.
inline void ask_ahead(const Scattered& where, int i) {
  if (panel < 16) return;
  for (int d = 0; d < panel; d += 16) __builtin_prefetch(where(i) + where.ahead + d, 1, 3);
}
inline void ask_ahead(Regular where, int i) {
  if (panel < 16) return;
  for (int d = 0; d < panel; d += 16) __builtin_prefetch(where(i + most) + d, 1, 3);
}
// Asks for memory, into L1; Written: to write there.
template <bool Written = false>
inline void ask_for(const void* from, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i, Written, 3);
}
inline void ask_for_row(const float* row, int floats) { ask_for(row, floats * 4); }

// Where a row of B lies: rows BK floats apart, or anywhere.
template <int BK>
struct Packed {
  static constexpr int next = BK;
  const float* at;
  const float* row(int k) const { return at + k * BK; }
};
struct Anywhere {
  static constexpr int next = 1;
  const float* const* at;
  std::int64_t column;
  const float* row(int k) const { return at[k] + column; }
};

// A(i, k) = a[i * AI + k * AK]; B(k, :) = b.row(k)[...].
template <int Rows, int Vecs, bool Add, int AI, int AK, class B, class Where>
[[gnu::always_inline]] inline void register_tile(const float* a, B b, int count, Where where) {
  Vec c[Rows][Vecs];
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Vecs; ++j) c[i][j] = Add ? load(where(i) + j * lanes) : zero();
  }
#pragma GCC unroll 12
  for (int i = 0; Add && i < Rows; ++i) ask_ahead(where, i);
  const auto step = [&](const float* x, const float* y) __attribute__((always_inline)) {
    Vec row[Vecs];
#pragma GCC unroll 2
    for (int j = 0; j < Vecs; ++j) row[j] = load(y + j * lanes);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
      const Vec z = set(x[i * AI]);
#pragma GCC unroll 2
      for (int j = 0; j < Vecs; ++j) accumulate(c[i][j], z, row[j]);
    }
  };
  const auto end = b.at + static_cast<std::int64_t>(count) * B::next;
  const auto whole = b.at + static_cast<std::int64_t>(count & -steps) * B::next;
#pragma GCC unroll 1
  for (; b.at != whole; a += steps * AK, b.at += steps * B::next) {
#pragma GCC unroll 4
    for (int k = 0; k < steps; ++k) step(a + k * AK, b.row(k));
  }
#pragma GCC unroll 1
  for (; steps > 1 && b.at != end; a += AK, b.at += B::next) step(a, b.row(0));
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Vecs; ++j) store(where(i) + j * lanes, c[i][j]);
  }
}

inline Regular from(Regular where, int i) { return {where.base + i * where.stride, where.stride}; }
inline Scattered from(Scattered where, int i) { return {where.rows + i, where.column, where.ahead}; }

// All rows against one panel. Rows are taken in register tiles; the last reaches up to most / 3 - 1 rows beyond `rows`,
// where A, C and their pointers must exist.
template <int Vecs, bool Add, int AI, int AK, class B, class Where>
[[gnu::noinline]] inline void multiply_panel(const float* a, B b, int rows, int count, Where where) {
  int i = 0;
  for (; rows - i > most * 2 / 3; i += most) {
    register_tile<most, Vecs, Add, AI, AK>(a + i * AI, b, count, from(where, i));
  }
  if (rows - i > most / 3) {
    register_tile<most * 2 / 3, Vecs, Add, AI, AK>(a + i * AI, b, count, from(where, i));
  } else if (rows - i > 0) {
    register_tile<most / 3, Vecs, Add, AI, AK>(a + i * AI, b, count, from(where, i));
  }
}

// The same with rows of A anywhere, aligned or not: A(i, k) = rows[i][k]. Six rows at a time, whose addresses the
// integer registers hold, so that rows need not be gathered first: at 12 keys the copy cost as much as the product. One
// vector of columns alone would wait for its own sums: where that is wanted, even and odd k are summed apart there;
// count is even.
template <int Rows, int Vecs, int BK, bool Apart>
[[gnu::always_inline]] inline void register_tile_of_rows(const float* const* rows, const float* b, int count,
                                                         Regular where) {
  constexpr int parts = Vecs == 1 && Apart ? 2 : 1, together = steps > parts ? steps : parts;
  Vec c[Rows][Vecs * parts];
  const float* a[Rows];
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
    a[i] = rows[i];
#pragma GCC unroll 2
    for (int j = 0; j < Vecs * parts; ++j) c[i][j] = zero();
  }
  const auto step = [&](int k) __attribute__((always_inline)) {
    Vec row[Vecs * parts];
#pragma GCC unroll 2
    for (int j = 0; j < Vecs * parts; ++j) {
      row[j] = load(b + (parts == 2 ? (k + j) * BK : k * BK + j * lanes));
    }
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < Vecs * parts; ++j) accumulate(c[i][j], set(a[i][parts == 2 ? k + j : k]), row[j]);
    }
  };
#pragma GCC unroll 1
  for (int k = 0; k < count; k += together) {
#pragma GCC unroll 4
    for (int j = 0; j < together; j += parts) step(k + j);
  }
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
    if (parts == 2) {
      store(where(i), add(c[i][0], c[i][1]));
    } else {
#pragma GCC unroll 2
      for (int j = 0; j < Vecs; ++j) store(where(i) + j * lanes, c[i][j]);
    }
  }
}

// Rows beyond `rows`, up to three, must exist, and pointers of seven. asks: every six rows ask for the next six.
template <int Vecs, int BK, bool Apart>
[[gnu::noinline]] inline void multiply_rows(const float* const* a, const float* b, int rows, int count, Regular where,
                                            bool asks) {
  int i = 0;
  for (; rows - i > 4; i += 6) {
    if (asks) {
      for (int r = 6; r < 12; ++r) ask_for_row(a[i + r], count);
    }
    register_tile_of_rows<6, Vecs, BK, Apart>(a + i, b, count, from(where, i));
  }
  if (rows - i > 2) {
    register_tile_of_rows<4, Vecs, BK, Apart>(a + i, b, count, from(where, i));
  } else if (rows - i > 0) {
    register_tile_of_rows<2, Vecs, BK, Apart>(a + i, b, count, from(where, i));
  }
}
