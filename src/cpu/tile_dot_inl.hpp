// SPDX-License-Identifier: Apache-2.0
// multiply() with the bf16 dot product of AVX-512 (VDPBF16PS) on the tiles' memory layout: register tiles of 8 rows by
// 32 columns, a pair of values of A broadcast from memory. Sums run over k in ascending pairs, the odd value of a pair
// first, as the instruction has it.

struct Tiles {};

template <int Rows, int Columns, bool Add>
inline void multiply_registers(const std::uint16_t* a, const std::uint16_t* b, int steps, float* c,
                               std::int64_t c_stride) {
  Vec sums[Rows][Columns];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Columns; ++j) sums[i][j] = Add ? load(c + i * c_stride + j * 16) : zero();
  }
  for (int k = 0; k < steps; ++k, a += tile_size, b += Columns * tile_size) {
#pragma GCC unroll 2
    for (int r = 0; r < 16; ++r) {
      __m512bh row[Columns];
#pragma GCC unroll 2
      for (int j = 0; j < Columns; ++j) __builtin_memcpy(&row[j], b + j * tile_size + r * 32, 64);
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        std::int32_t pair;
        __builtin_memcpy(&pair, a + i * 32 + r * 2, 4);
        const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
#pragma GCC unroll 2
        for (int j = 0; j < Columns; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], x, row[j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Columns; ++j) store(c + i * c_stride + j * 16, sums[i][j]);
  }
}

// C[rows][16 columns] (+)= A B for up to 32 rows. A: two strips, a_strip values apart. B: panels. Rows of C are
// c_stride floats apart; rows up to the next multiple of 8 are written.
template <bool Add, class Beside>
inline void multiply(Tiles&, const std::uint16_t* a, std::int64_t a_strip, int rows, const std::uint16_t* b, int steps,
                     int columns, float* c, std::int64_t c_stride, Beside&) {
  for (int n = 0; n < columns; n += 2, b += static_cast<std::int64_t>(steps) * 2 * tile_size) {
    for (int i = 0; i < rows; i += 8) {
      const std::uint16_t* from = a + i / 16 * a_strip + i % 16 * 32;
      float* to = c + i * c_stride + n * 16;
      if (n + 1 < columns) {
        multiply_registers<8, 2, Add>(from, b, steps, to, c_stride);
      } else {
        multiply_registers<8, 1, Add>(from, b, steps, to, c_stride);
      }
    }
  }
}
