// SPDX-License-Identifier: Apache-2.0
// Gate kernels over the tier's vector type; gate_item.hpp has their contracts. Included by the tier files after
// vec.hpp, inside their anonymous namespace.
//
// Gates are a plain product, [64 rows, D] x [D, N] (gates of spec section 2): a register tile of 2 to 8 rows by 1 to 4
// strips walks D in order, one fused multiply-add a step, so a gate has the same bits wherever in a tile it is made. A
// panel is D x 16 floats (8 KB at D = 128); 4 panels stay in L1 while the 64 rows pass.

#include "cpu/gate_vec.hpp"

constexpr int gate_vectors = static_cast<int>(gate_strip) / lanes;  // of a strip

// Adds `Rows` rows to sums[0..dim rounded down to vectors), while the next ones, often a jump away, are asked for.
// Whole rows, so that the lines of a row come one after another.
template <int Rows, class Type, class Element>
inline void gate_add_rows(const Element* const* rows, const Element* const* next, std::int64_t dim, double* sums,
                          Type type) {
  for (std::int64_t d = 0; d + lanes <= dim; d += lanes) {
    WideSum total = load_wide(sums + d);
    for (int i = 0; i < Rows; ++i) {
      if (d * static_cast<std::int64_t>(sizeof(Element)) % 64 == 0) __builtin_prefetch(next[i] + d);
      add_wide(total, load(rows[i] + d, type));
    }
    store_wide(sums + d, total);
  }
}

// fp64 sums keep the mean within one rounding of exact, whatever the size of the block.
template <class Type, class Element>
inline void gate_mean_of(const Element* k, std::int64_t token_stride, const std::int32_t* rows, std::int64_t count,
                         std::int64_t dim, double* sums, float* mean, Type type) {
  constexpr std::int64_t together = 4, ahead = 8;
  for (std::int64_t d = 0; d < dim; ++d) sums[d] = 0;
  const Element *now[together], *next[together];
  std::int64_t i = 0;
  for (; i + together <= count; i += together) {
    for (std::int64_t j = 0; j < together; ++j) {
      now[j] = k + rows[i + j] * token_stride;
      next[j] = k + rows[i + j + ahead < count ? i + j + ahead : count - 1] * token_stride;
    }
    gate_add_rows<together>(now, next, dim, sums, type);
  }
  for (; i < count; ++i) {
    now[0] = next[0] = k + rows[i] * token_stride;
    gate_add_rows<1>(now, next, dim, sums, type);
  }
  const std::int64_t d = dim / lanes * lanes;
  for (i = 0; i < count && d < dim; ++i) {  // D is a multiple of 8, a vector may be longer
    Element copy[lanes] = {};
    float values[lanes];
    for (std::int64_t j = d; j < dim; ++j) copy[j - d] = k[rows[i] * token_stride + j];
    store(values, load(copy, type));
    for (std::int64_t j = d; j < dim; ++j) sums[j] += values[j - d];
  }
  const double share = static_cast<double>(count);
  for (std::int64_t j = 0; j < dim; ++j) mean[j] = static_cast<float>(sums[j] / share);
}

void gate_mean(const void* k, int dtype, std::int64_t token_stride, const std::int32_t* rows, std::int64_t count,
               std::int64_t dim, double* sums, float* mean) {
  switch (dtype) {
    case 0:
      return gate_mean_of(static_cast<const float*>(k), token_stride, rows, count, dim, sums, mean, F32{});
    case 1:
      return gate_mean_of(static_cast<const std::uint16_t*>(k), token_stride, rows, count, dim, sums, mean, Bf16{});
    default:
      return gate_mean_of(static_cast<const std::uint16_t*>(k), token_stride, rows, count, dim, sums, mean, F16{});
  }
}

// Rows x Strips gates: q[i] are fp32 rows, panels [Strips][D][16], out [Strips][64][16] from this tile's first row.
template <int Rows, int Strips>
inline void gate_product(const float* const* q, const float* panels, std::int64_t dim, float* out) {
  constexpr int vectors = Strips * gate_vectors;
  Vec sums[Rows][vectors];
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < vectors; ++v) sums[i][v] = zero();
  }
  const auto step = [&](std::int64_t d) __attribute__((always_inline)) {
    Vec means[vectors];
    for (int v = 0; v < vectors; ++v) {
      means[v] = load(panels + (v / gate_vectors * dim + d) * gate_strip + v % gate_vectors * lanes);
    }
    for (int i = 0; i < Rows; ++i) {
      const Vec one = set(q[i][d]);
      for (int v = 0; v < vectors; ++v) accumulate(sums[i][v], one, means[v]);
    }
  };
#pragma GCC unroll 1
  for (std::int64_t d = 0; d < dim; d += steps) {
#pragma GCC unroll 4
    for (int i = 0; i < steps; ++i) step(d + i);
  }
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < vectors; ++v) {
      store(out + (v / gate_vectors * gate_rows + i) * gate_strip + v % gate_vectors * lanes, sums[i][v]);
    }
  }
}

template <int Rows>
struct RowCount {
  static constexpr int value = Rows;
};

// Rows [row, end) of a tile against some strips, in steps of `Rows`, the last few in steps of 4; the last of those may
// make rows that nobody reads.
template <int Rows, int Strips>
inline void gate_rows_by_strips(const GateTile& tile, std::int64_t strip, std::int64_t row, std::int64_t end,
                                RowsAhead& ahead) {
  const float* const panels = tile.panels + strip * tile.dim * gate_strip;
  const auto product = [&](auto rows) __attribute__((always_inline)) {
    constexpr int count = decltype(rows)::value;
    ahead.step([&](int i) { ask_for(tile.next + i * tile.next_stride, tile.next_bytes); });
    const float* q[count];
    for (int i = 0; i < count; ++i) q[i] = tile.widened + (row + i) * tile.dim;
    gate_product<count, Strips>(q, panels, tile.dim, tile.gates + (strip * gate_rows + row) * gate_strip);
    row += count;
  };
  while (row + Rows <= end) product(RowCount<Rows>{});
  while (row < end) product(RowCount<(Rows < 4 ? Rows : 4)>{});
}

template <class Type, class Element>
inline void gate_widen(const Element* row, std::int64_t dim, float* out, Type type) {
  std::int64_t d = 0;
  for (; d + lanes <= dim; d += lanes) store(out + d, load(row + d, type));
  if (d < dim) {
    float last[lanes];
    Element copy[lanes] = {};
    for (std::int64_t i = d; i < dim; ++i) copy[i - d] = row[i];
    store(last, load(copy, type));
    for (std::int64_t i = d; i < dim; ++i) out[i] = last[i - d];
  }
}

// Rows [row, end) of q side by side, and the last of the tile once more for what its last step makes too many.
// Rows asked for a tile ago are seldom in L1 still: asked for again, they are not waited for (0.85 of the time of a
// selection at 7 blocks, 0.93 to 0.97 at 144).
inline void gate_copy_rows(const GateTile& tile, std::int64_t row, std::int64_t end) {
  const std::int64_t ahead = 6, bytes = tile.dtype == 0 ? 4 : 2;
  if (end == tile.rows) end = (end + 3) / 4 * 4;
  for (; row < end; ++row) {
    const std::int64_t from = (row < tile.rows ? row : tile.rows - 1) * tile.token_stride;
    float* to = tile.widened + row * tile.dim;
    if (row + ahead < tile.rows) {
      const char* next = static_cast<const char*>(tile.q) + (row + ahead) * tile.token_stride * bytes;
      ask_for(next, tile.dim * bytes);
    }
    switch (tile.dtype) {
      case 0:
        gate_widen(static_cast<const float*>(tile.q) + from, tile.dim, to, F32{});
        break;
      case 1:
        gate_widen(static_cast<const std::uint16_t*>(tile.q) + from, tile.dim, to, Bf16{});
        break;
      default:
        gate_widen(static_cast<const std::uint16_t*>(tile.q) + from, tile.dim, to, F16{});
    }
  }
}

// Rows are copied side by side, as many as L1 holds beside a panel, and meet every strip before the next ones come:
// where they lie, heads x D apart, 64 of them share a few sets of L1 and came from L2 again for every strip.
void gate_gates(const GateTile& tile) {
  constexpr std::int64_t most = registers / 8 / gate_vectors > 0 ? registers / 8 / gate_vectors : 1;  // strips at once
  constexpr std::int64_t rows = gate_vectors == 2 ? 6 : 8, bytes = 20 << 10;
  const std::int64_t groups = (tile.strips + most - 1) / most;
  const std::int64_t parts = (tile.rows * tile.dim * 4 + bytes - 1) / bytes;
  const std::int64_t length = ((tile.rows + parts - 1) / parts + rows - 1) / rows * rows;
  const std::int64_t products = groups * (tile.rows / rows + 1);
  RowsAhead ahead{static_cast<int>(tile.next_rows), static_cast<int>((tile.next_rows + products - 1) / products)};
  for (std::int64_t row = 0; row < tile.rows; row += length) {
    const std::int64_t end = row + length < tile.rows ? row + length : tile.rows;
    if (tile.q) gate_copy_rows(tile, row, end);
    for (std::int64_t i = 0; i < groups; ++i) {
      const std::int64_t strip = tile.strips * i / groups;
      switch (tile.strips * (i + 1) / groups - strip) {
        case 1:
          gate_rows_by_strips<gate_vectors == 2 ? 6 : gate_vectors == 1 ? 8 : 2, 1>(tile, strip, row, end, ahead);
          break;
        case 2:
          if constexpr (most >= 2) gate_rows_by_strips<8, 2>(tile, strip, row, end, ahead);
          break;
        case 3:
          if constexpr (most >= 3) gate_rows_by_strips<8, 3>(tile, strip, row, end, ahead);
          break;
        default:
          if constexpr (most >= 4) gate_rows_by_strips<4, 4>(tile, strip, row, end, ahead);
      }
    }
  }
}

void gate_stats(const float* gates, std::int64_t strips, std::int64_t rows, float* least, float* greatest,
                double* sums) {
  for (std::int64_t v = 0; v < strips * gate_vectors; ++v) {
    const float* column = gates + v / gate_vectors * gate_rows * gate_strip + v % gate_vectors * lanes;
    Vec low = load(least + v * lanes), high = load(greatest + v * lanes);
    WideSum total = load_wide(sums + v * lanes);
    for (std::int64_t row = 0; row < rows; ++row) {
      const Vec gate = load(column + row * gate_strip);
      low = min(gate, low);
      high = max(gate, high);
      add_wide(total, gate);
    }
    store(least + v * lanes, low);
    store(greatest + v * lanes, high);
    store_wide(sums + v * lanes, total);
  }
}

std::int64_t gate_emit(const GateEmission& emission) {
  std::int64_t found = 0;
  for (std::int64_t strip = 0; strip < emission.strips; ++strip) {
    const float* gates = emission.gates + strip * gate_rows * gate_strip;
    const std::int64_t first = strip * gate_strip;
    Vec lo[gate_vectors], hi[gate_vectors];
    WideSum sums[gate_vectors];
    for (int v = 0; v < gate_vectors; ++v) {
      lo[v] = load(emission.lo + first + v * lanes);
      hi[v] = load(emission.hi + first + v * lanes);
      sums[v] = load_wide(emission.sums + first + v * lanes);
    }
    std::uint16_t masks[gate_rows] = {};
    for (std::int64_t row = 0; row < emission.rows; ++row) {
      unsigned all = 0;
      for (int v = 0; v < gate_vectors; ++v) {
        const Vec gate = load(gates + row * gate_strip + v * lanes);
        const unsigned above = greater(gate, hi[v]);
        const unsigned within = greater_equal(gate, lo[v]) & ~above;
        add_wide(sums[v], where_greater(gate, hi[v], gate));
        all |= above << (v * lanes);
        found += pack(emission.values + found, emission.places + found, within, gate,
                      static_cast<std::uint32_t>((emission.column + first + v * lanes) * gate_rows + row), gate_rows);
      }
      masks[row] = static_cast<std::uint16_t>(all);
    }
    transpose_bits(masks, emission.words + first);
    for (int v = 0; v < gate_vectors; ++v) store_wide(emission.sums + first + v * lanes, sums[v]);
    for (int lane = 0; lane < gate_strip; ++lane) {
      emission.counts[first + lane] += __builtin_popcountll(emission.words[first + lane]);
    }
  }
  return found;
}

void gate_turn(const GateQueries& queries) {
  const std::int64_t columns = queries.strips * gate_strip;
  for (std::int64_t group = 0; group < gate_rows / lanes; ++group) {
    float* const turned = queries.turned + group * columns * lanes;
    Vec low = set(3.4e38f), high = set(-3.4e38f);
    WideSum total{};
    for (std::int64_t c = 0; c < columns; c += lanes) {
      Vec square[lanes];
      for (int row = 0; row < lanes; ++row) {
        square[row] =
            load(queries.gates + (c / gate_strip * gate_rows + group * lanes + row) * gate_strip + c % gate_strip);
      }
      transpose(square);
      for (int i = 0; i < lanes; ++i) {
        store(turned + (c + i) * lanes, square[i]);
        if (c + i < queries.blocks) {
          low = min(square[i], low);
          high = max(square[i], high);
          add_wide(total, square[i]);
        }
      }
    }
    store(queries.least + group * lanes, low);
    store(queries.greatest + group * lanes, high);
    store_wide(queries.sums + group * lanes, total);
  }
}

// One halving of the cuts of a group of rows: whether what lies above `middle` is enough. Four sums side by side.
template <bool ByCount>
inline Vec gate_above(const float* turned, std::int64_t blocks, Vec middle, Vec least) {
  constexpr std::int64_t apart = 4;
  const Vec one = set(1.0f);
  Vec sums[apart];
  for (std::int64_t i = 0; i < apart; ++i) sums[i] = zero();
  const auto take = [&](std::int64_t i, std::int64_t c) {
    const Vec gate = load(turned + c * lanes);
    sums[i] = add(sums[i], where_greater(gate, middle, ByCount ? one : sub(gate, least)));
  };
  std::int64_t c = 0;
  for (; c + apart <= blocks; c += apart) {
    for (std::int64_t i = 0; i < apart; ++i) take(i, c + i);
  }
  for (; c < blocks; ++c) take(0, c);
  return add(add(sums[0], sums[1]), add(sums[2], sums[3]));
}

// Halves the range of gates, each time keeping the half in which a row's budget is met, until it holds about a gate.
// The sums that steer it are fp32: they only have to land near, the caller checks with exact ones.
std::int64_t gate_bracket(const GateQueries& queries) {
  std::int64_t found = 0, halvings = 2;
  while (halvings < 10 && queries.blocks >> (halvings - 1) != 0) ++halvings;
  for (std::int64_t c = 0; c < queries.strips * gate_strip; ++c) queries.words[c] = 0;
  for (std::int64_t group = 0; group < gate_rows / lanes; ++group) {
    const float* const turned = queries.turned + group * queries.strips * gate_strip * lanes;
    const Vec least = load(queries.least + group * lanes), needed = load(queries.needed + group * lanes);
    const Vec one = set(1.0f), half = set(0.5f), nothing = zero();
    Vec lo = least, hi = load(queries.greatest + group * lanes);
    for (std::int64_t step = 0; step < halvings; ++step) {
      const Vec middle = fma(sub(hi, lo), half, lo);
      const Vec have = queries.by_count ? gate_above<true>(turned, queries.blocks, middle, least)
                                        : gate_above<false>(turned, queries.blocks, middle, least);
      // More than nothing: at least one is taken.
      const unsigned enough = greater_equal(have, needed) & greater(have, nothing);
      lo = add(keep(enough, middle), keep(~enough, lo));
      hi = add(keep(enough, hi), keep(~enough, middle));
    }
    Vec count = zero();
    WideSum sum{};
    for (std::int64_t c = 0; c < queries.blocks; ++c) {
      const Vec gate = load(turned + c * lanes);
      const unsigned above = greater(gate, hi), within = greater_equal(gate, lo) & ~above;
      count = add(count, where_greater(gate, hi, one));
      add_wide(sum, where_greater(gate, hi, gate));
      queries.words[c] |= static_cast<std::uint64_t>(above) << group * lanes;
      if (within != 0) {
        found += pack(queries.values + found, queries.places + found, within, gate,
                      static_cast<std::uint32_t>(c * gate_rows + group * lanes), 1);
      }
    }
    store(queries.lo + group * lanes, lo);
    store(queries.hi + group * lanes, hi);
    store(queries.above + group * lanes, count);
    store_wide(queries.above_sums + group * lanes, sum);
  }
  return found;
}

constexpr GateKernels gate_kernels{gate_mean, gate_gates, gate_stats, gate_emit, gate_turn, gate_bracket, lanes};
