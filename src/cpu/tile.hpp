// SPDX-License-Identifier: Apache-2.0
// Matrix tiles: how bf16 operands lie in memory, and how vectors of fp32 become operands. Included by tier files inside
// their anonymous namespace, after vec.hpp and before one of tile_amx_inl.hpp, tile_dot_inl.hpp, tile_emulated_inl.hpp,
// which bring multiply().
//
// A product C[m][n] += sum over k of A[m][k] B[k][n] is made of tiles of 16 rows of 64 bytes:
//   A   16 rows of 32 values of k: tile[m][k]
//   B   16 rows of 16 columns of 2 values of k: tile[k / 2][n][k % 2]
//   C   16 x 16 fp32
// An A strip is 16 rows of A: tiles of ascending k, one after the other. A B panel is 32 columns of B: for ascending k
// the tile of the first 16 columns, then that of the others ([steps][2][512] values); an odd last panel has 16 columns
// and one tile a step. Operands are padded with zeros to whole tiles.

// What runs beside a product: step() is called after every product of tiles. This one does nothing.
struct Nothing {
  void step() {}
};

#if defined(__AVX512BF16__)

// 32 values, or 16, rounded to nearest even; NaN stays NaN.
inline void round_32(std::uint16_t* to, const Vec (&x)[2]) {
  const __m512bh y = _mm512_cvtne2ps_pbh(x[1], x[0]);
  __builtin_memcpy(to, &y, 64);
}
inline void round_16(std::uint16_t* to, const Vec (&x)[1]) {
  const __m256bh y = _mm512_cvtneps_pbh(x[0]);
  __builtin_memcpy(to, &y, 32);
}
// Pairs (a[i], b[i]) of 16 columns: a row of a B tile whose values of k are a's and b's.
inline void round_pairs(std::uint16_t* to, const Vec (&a)[1], const Vec (&b)[1]) {
  const __m512bh y = _mm512_cvtne2ps_pbh(b[0], a[0]);
  __m512i z;
  __builtin_memcpy(&z, &y, 64);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, z));
}

#else

inline void round_32(std::uint16_t* to, const Vec (&x)[32 / lanes]) {
  for (int i = 0; i < 32 / lanes; ++i) store(to + i * lanes, x[i], Bf16{});
}
inline void round_16(std::uint16_t* to, const Vec (&x)[16 / lanes]) {
  for (int i = 0; i < 16 / lanes; ++i) store(to + i * lanes, x[i], Bf16{});
}
inline void round_pairs(std::uint16_t* to, const Vec (&a)[16 / lanes], const Vec (&b)[16 / lanes]) {
  std::uint16_t even[16], odd[16];
  round_16(even, a);
  round_16(odd, b);
  for (int i = 0; i < 16; ++i) {
    to[2 * i] = even[i];
    to[2 * i + 1] = odd[i];
  }
}

#endif

// Vectors of 32-bit units that are no numbers: pairs of bf16. Loads, stores and shuffles leave every bit as it is.
inline Vec load_pairs(const std::uint16_t* p) { return load(reinterpret_cast<const float*>(p)); }
inline void store_pairs(std::uint16_t* p, Vec x) { store(reinterpret_cast<float*>(p), x); }

// lanes pairs (a[i], b[i]).
inline Vec pair_up(const std::uint16_t* a, const std::uint16_t* b) {
#if defined(__AVX512F__)
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#else
  std::uint16_t pairs[2 * lanes];
  for (int i = 0; i < lanes; ++i) {
    pairs[2 * i] = a[i];
    pairs[2 * i + 1] = b[i];
  }
  return load_pairs(pairs);
#endif
}

// 2^x for x <= 127, never below 2^-126; NaN for NaN. Relative error 1.1e-7: a minimax polynomial of degree 5 on
// [-1/2, 1/2] with p(0) = 1. What becomes bf16 (4e-3) needs no more; lse sums it unrounded.
inline Vec weight(Vec x) {
  const Vec y = max(set(-126.0f), x), n = round(y), f = sub(y, n);
  Vec p = set(0.001326472731307149f);
  p = fma(p, f, set(0.009671512991189957f));
  p = fma(p, f, set(0.05550733581185341f));
  p = fma(p, f, set(0.24022242426872253f));
  p = fma(p, f, set(0.6931470036506653f));
  p = fma(p, f, set(1.0f));
  return scale_by_power(p, n);
}
