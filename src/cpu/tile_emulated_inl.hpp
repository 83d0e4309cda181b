// SPDX-License-Identifier: Apache-2.0
// multiply() in plain C++, bit for bit what TDPBF16PS computes for finite sums in the normal range: per pair of columns
// of A even and odd values of k are summed apart, in ascending order, each step a fused multiply-add from 0 (a product
// of two bf16 is exact in fp32, so fused or not is the same), then C += even + odd. Subnormal inputs count as 0;
// subnormal results too where the caller flushes them (FlushSubnormals). For tests on machines without AMX.

inline float tile_value(std::uint32_t high) {  // of a bf16 in the upper half
  if ((high & 0x7f800000u) == 0) high &= 0x80000000u;
  float value;
  __builtin_memcpy(&value, &high, 4);
  return value;
}

struct Tiles {
  // c += a b, all of 16 rows; c rows are stride floats apart.
  static void dot(float* c, std::int64_t stride, const std::uint16_t* a, const std::uint16_t* b) {
    float b_even[16][16], b_odd[16][16];
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 16; ++n) {
        b_even[k][n] = tile_value(static_cast<std::uint32_t>(b[k * 32 + 2 * n]) << 16);
        b_odd[k][n] = tile_value(static_cast<std::uint32_t>(b[k * 32 + 2 * n + 1]) << 16);
      }
    }
    for (int m = 0; m < 16; ++m) {
      float even[16] = {}, odd[16] = {};
      for (int k = 0; k < 16; ++k) {
        const float a_even = tile_value(static_cast<std::uint32_t>(a[m * 32 + 2 * k]) << 16);
        const float a_odd = tile_value(static_cast<std::uint32_t>(a[m * 32 + 2 * k + 1]) << 16);
        for (int n = 0; n < 16; ++n) even[n] += a_even * b_even[k][n];
        for (int n = 0; n < 16; ++n) odd[n] += a_odd * b_odd[k][n];
      }
      for (int n = 0; n < 16; ++n) c[m * stride + n] += even[n] + odd[n];
    }
  }
};

// C[rows][16 columns] (+)= A B for up to 32 rows. A: two strips, a_strip values apart. B: panels. Rows of C are
// c_stride floats apart; all 16 or 32 of them are written.
template <bool Add, class Beside>
inline void multiply(Tiles& tiles, const std::uint16_t* a, std::int64_t a_strip, int rows, const std::uint16_t* b,
                     int steps, int columns, float* c, std::int64_t c_stride, Beside& beside) {
  for (int n = 0; n < columns; ++n) {
    const int of_panel = (n | 1) < columns ? 2 : 1;
    const std::uint16_t* panel_b = b + static_cast<std::int64_t>(n / 2) * steps * 2 * tile_size + n % 2 * tile_size;
    for (int strip = 0; strip * 16 < rows; ++strip) {
      float* to = c + strip * 16 * c_stride + n * 16;
      for (int m = 0; m < 16 && !Add; ++m) {
        for (int i = 0; i < 16; ++i) to[m * c_stride + i] = 0.0f;
      }
      for (int k = 0; k < steps; ++k) {
        tiles.dot(to, c_stride, a + strip * a_strip + k * tile_size, panel_b + k * of_panel * tile_size);
        beside.step();
      }
    }
  }
}
