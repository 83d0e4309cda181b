// SPDX-License-Identifier: Apache-2.0
// Gate kernels over the tier's vector type; gate_item.hpp has their contracts. Included by the tier files after
// vec.hpp, inside their anonymous namespace.
//
// Gates are a plain product, [64 rows, D] x [D, N] (gates of spec section 2): a register tile of 4 or 8 rows by 1 to 4
// strips walks D in order, one fused multiply-add a step, so a gate has the same bits wherever in a tile it is made. A
// panel is D x 16 floats (8 KB at D = 128); 4 panels stay in L1 while the 64 rows pass.

#include "cpu/gate_vec.hpp"

constexpr int gate_vectors = static_cast<int>(gate_strip) / lanes;  // of a strip

// Rows of any dtype as fp32: sums in fp64 keep the mean within one rounding of exact, whatever the size of the block.
template <class Type, class Element>
inline void gate_mean_of(const Element* k, std::int64_t token_stride, const std::int32_t* rows, std::int64_t count,
                         std::int64_t dim, double* sums, float* mean, Type type) {
  for (std::int64_t d = 0; d < dim; ++d) sums[d] = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const Element* row = k + rows[i] * token_stride;
    std::int64_t d = 0;
    float values[lanes];
    for (; d + lanes <= dim; d += lanes) {
      store(values, load(row + d, type));
      for (int lane = 0; lane < lanes; ++lane) sums[d + lane] += values[lane];
    }
    if (d < dim) {  // D is a multiple of 8, a vector may be longer
      Element copy[lanes] = {};
      for (std::int64_t i = d; i < dim; ++i) copy[i - d] = row[i];
      store(values, load(copy, type));
      for (std::int64_t i = d; i < dim; ++i) sums[i] += values[i - d];
    }
  }
  const double share = static_cast<double>(count);
  for (std::int64_t d = 0; d < dim; ++d) mean[d] = static_cast<float>(sums[d] / share);
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
  for (std::int64_t d = 0; d < dim; ++d) {
    Vec means[vectors];
    for (int v = 0; v < vectors; ++v) {
      means[v] = load(panels + (v / gate_vectors * dim + d) * gate_strip + v % gate_vectors * lanes);
    }
    for (int i = 0; i < Rows; ++i) {
      const Vec one = set(q[i][d]);
      for (int v = 0; v < vectors; ++v) sums[i][v] = fma(one, means[v], sums[i][v]);
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < vectors; ++v) {
      store(out + (v / gate_vectors * gate_rows + i) * gate_strip + v % gate_vectors * lanes, sums[i][v]);
    }
  }
}

template <int Rows, int Strips>
inline void gate_rows_by_strips(const float* const* q, const GateTile& tile, std::int64_t strip) {
  for (std::int64_t row = 0; row < tile.rows; row += Rows) {
    gate_product<Rows, Strips>(q + row, tile.panels + strip * tile.dim * gate_strip, tile.dim,
                               tile.gates + (strip * gate_rows + row) * gate_strip);
  }
}

template <class Type>
inline void gate_widen(const std::uint16_t* row, std::int64_t dim, float* out, Type type) {
  std::int64_t d = 0;
  for (; d + lanes <= dim; d += lanes) store(out + d, load(row + d, type));
  if (d < dim) {
    float last[lanes];
    std::uint16_t copy[lanes] = {};
    for (std::int64_t i = d; i < dim; ++i) copy[i - d] = row[i];
    store(last, load(copy, type));
    for (std::int64_t i = d; i < dim; ++i) out[i] = last[i - d];
  }
}

void gate_gates(const GateTile& tile) {
  const float* q[gate_rows];
  for (std::int64_t row = 0; row < gate_rows; ++row) {
    if (row >= tile.rows) {
      q[row] = q[tile.rows - 1];
    } else if (tile.dtype == 0) {
      q[row] = static_cast<const float*>(tile.q) + row * tile.token_stride;
    } else {
      const std::uint16_t* from = static_cast<const std::uint16_t*>(tile.q) + row * tile.token_stride;
      float* to = tile.widened + row * tile.dim;
      if (tile.dtype == 1) {
        gate_widen(from, tile.dim, to, Bf16{});
      } else {
        gate_widen(from, tile.dim, to, F16{});
      }
      q[row] = to;
    }
  }
  constexpr std::int64_t most = registers / 8 / gate_vectors > 0 ? registers / 8 / gate_vectors : 1;  // strips at once
  const std::int64_t groups = (tile.strips + most - 1) / most;
  for (std::int64_t i = 0; i < groups; ++i) {
    const std::int64_t strip = tile.strips * i / groups, end = tile.strips * (i + 1) / groups;
    switch (end - strip) {
      case 1:
        if constexpr (gate_vectors == 1) {
          gate_rows_by_strips<8, 1>(q, tile, strip);
        } else {
          gate_rows_by_strips<gate_vectors == 2 ? 4 : 2, 1>(q, tile, strip);
        }
        break;
      case 2:
        if constexpr (most >= 2) gate_rows_by_strips<8, 2>(q, tile, strip);
        break;
      case 3:
        if constexpr (most >= 3) gate_rows_by_strips<8, 3>(q, tile, strip);
        break;
      default:
        if constexpr (most >= 4) gate_rows_by_strips<4, 4>(q, tile, strip);
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
        add_wide(sums[v], keep(above, gate));
        all |= above << (v * lanes);
        found += pack(emission.values + found, emission.places + found, within, gate,
                      static_cast<std::uint32_t>(row * emission.strips * gate_strip + first + v * lanes));
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

constexpr GateKernels gate_kernels{gate_mean, gate_gates, gate_stats, gate_emit};
