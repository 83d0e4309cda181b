// SPDX-License-Identifier: Apache-2.0
// What the gate kernels need of a tier beyond vec.hpp: fp64 sums of fp32 lanes, packing of chosen lanes, and turning 64
// rows of 16 bits into 16 words. Included by gate_inl.hpp, inside the tier's anonymous namespace.

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

struct WideSum {
  __m512d low, high;
};
inline WideSum load_wide(const double* p) { return {_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)}; }
inline void store_wide(double* p, const WideSum& s) {
  _mm512_storeu_pd(p, s.low);
  _mm512_storeu_pd(p + 8, s.high);
}
inline void add_wide(WideSum& s, Vec x) {
  s.low = _mm512_add_pd(s.low, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
  s.high = _mm512_add_pd(s.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
}
// x where a > b, else 0.
inline Vec where_greater(Vec a, Vec b, Vec x) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), x); }
// x in the lanes of mask, else 0.
inline Vec keep(unsigned mask, Vec x) { return _mm512_maskz_mov_ps(static_cast<__mmask16>(mask), x); }
// Writes x and place + lane * step of the lanes of mask one after another; touches 16 elements of each. Returns their
// number.
inline std::int64_t pack(float* values, std::uint32_t* places, unsigned mask, Vec x, std::uint32_t place, int step) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i numbers =
      _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(place)), _mm512_mullo_epi32(lane, _mm512_set1_epi32(step)));
  _mm512_storeu_ps(values, _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), x));
  _mm512_storeu_si512(places, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), numbers));
  return __builtin_popcount(mask);
}
// Bit row of words[lane] is bit lane of rows[row].
inline void transpose_bits(const std::uint16_t (&rows)[64], std::uint64_t* words) {
  const __m512i first = _mm512_loadu_si512(rows), second = _mm512_loadu_si512(rows + 32);
  for (int lane = 0; lane < 16; ++lane) {
    const __m512i bit = _mm512_set1_epi16(static_cast<short>(1 << lane));
    words[lane] = _mm512_test_epi16_mask(first, bit) | static_cast<std::uint64_t>(_mm512_test_epi16_mask(second, bit))
                                                           << 32;
  }
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

struct WideSum {
  __m256d low, high;
};
inline WideSum load_wide(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
inline void store_wide(double* p, const WideSum& s) {
  _mm256_storeu_pd(p, s.low);
  _mm256_storeu_pd(p + 4, s.high);
}
inline void add_wide(WideSum& s, Vec x) {
  s.low = _mm256_add_pd(s.low, _mm256_cvtps_pd(_mm256_castps256_ps128(x)));
  s.high = _mm256_add_pd(s.high, _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
}
inline Vec where_greater(Vec a, Vec b, Vec x) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), x); }
inline Vec keep(unsigned mask, Vec x) {
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i chosen = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bits), bits);
  return _mm256_and_ps(_mm256_castsi256_ps(chosen), x);
}
// For every mask the lanes it holds, in order, a byte each.
struct LaneTable {
  std::uint64_t of[256] = {};
  constexpr LaneTable() {
    for (unsigned mask = 0; mask < 256; ++mask) {
      int count = 0;
      for (unsigned lane = 0; lane < 8; ++lane) {
        if (mask >> lane & 1) of[mask] |= std::uint64_t{lane} << 8 * count++;
      }
    }
  }
};
constexpr LaneTable lane_table;
// Without a branch: a list of a few pairs in a hundred is met at every fifth vector, which no predictor foresees.
inline std::int64_t pack(float* values, std::uint32_t* places, unsigned mask, Vec x, std::uint32_t place, int step) {
  const __m256i chosen = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(lane_table.of + mask)));
  _mm256_storeu_ps(values, _mm256_permutevar8x32_ps(x, chosen));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(places),
                      _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(place)),
                                       _mm256_mullo_epi32(chosen, _mm256_set1_epi32(step))));
  return __builtin_popcount(mask);
}
inline void transpose_bits(const std::uint16_t (&rows)[64], std::uint64_t* words) {
  for (int lane = 0; lane < 16; ++lane) words[lane] = 0;
  for (int i = 0; i < 2; ++i) {  // 32 rows, low bytes in one vector and high bytes in another
    const auto* from = reinterpret_cast<const __m256i*>(rows + 32 * i);
    const __m256i a = _mm256_loadu_si256(from), b = _mm256_loadu_si256(from + 1), byte = _mm256_set1_epi16(0xff);
    __m256i low =
        _mm256_permute4x64_epi64(_mm256_packus_epi16(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte)), 0xd8);
    __m256i high =
        _mm256_permute4x64_epi64(_mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)), 0xd8);
    for (int lane = 7; lane >= 0; --lane) {  // the top bit of every byte, then the next
      words[lane] |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(low))) << 32 * i;
      words[lane + 8] |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(high))) << 32 * i;
      low = _mm256_add_epi8(low, low);
      high = _mm256_add_epi8(high, high);
    }
  }
}

#else

struct WideSum {
  double lane[lanes];
};
inline WideSum load_wide(const double* p) {
  WideSum s;
  for (int i = 0; i < lanes; ++i) s.lane[i] = p[i];
  return s;
}
inline void store_wide(double* p, const WideSum& s) {
  for (int i = 0; i < lanes; ++i) p[i] = s.lane[i];
}
inline void add_wide(WideSum& s, Vec x) {
  for (int i = 0; i < lanes; ++i) s.lane[i] += x[i];
}
inline Vec where_greater(Vec a, Vec b, Vec x) { return reinterpret_cast<Vec>((a > b) & reinterpret_cast<Bits>(x)); }
inline Vec keep(unsigned mask, Vec x) {
  const Bits bits{1, 2, 4, 8}, all = Bits{} + static_cast<std::int32_t>(mask);
  return reinterpret_cast<Vec>(((all & bits) == bits) & reinterpret_cast<Bits>(x));
}
inline std::int64_t pack(float* values, std::uint32_t* places, unsigned mask, Vec x, std::uint32_t place, int step) {
  if (mask == 0) return 0;
  float all[lanes];
  store(all, x);
  std::int64_t count = 0;
  for (; mask != 0; mask &= mask - 1) {
    const int lane = __builtin_ctz(mask);
    values[count] = all[lane];
    places[count++] = place + static_cast<std::uint32_t>(lane * step);
  }
  return count;
}
inline void transpose_bits(const std::uint16_t (&rows)[64], std::uint64_t* words) {
  for (int lane = 0; lane < 16; ++lane) words[lane] = 0;
  for (int group = 0; group < 8; ++group) {  // 8 rows, 8 lanes at a time: a square of 8 x 8 bits in one word
    for (int half = 0; half < 16; half += 8) {
      std::uint64_t x = 0;
      for (int i = 0; i < 8; ++i) x |= static_cast<std::uint64_t>(rows[group * 8 + i] >> half & 0xff) << 8 * i;
      std::uint64_t swap = (x ^ x >> 7) & 0x00aa00aa00aa00aa;
      x ^= swap ^ swap << 7;
      swap = (x ^ x >> 14) & 0x0000cccc0000cccc;
      x ^= swap ^ swap << 14;
      swap = (x ^ x >> 28) & 0x00000000f0f0f0f0;
      x ^= swap ^ swap << 28;
      for (int lane = 0; lane < 8; ++lane) words[half + lane] |= (x >> 8 * lane & 0xff) << 8 * group;
    }
  }
}

#endif
