// SPDX-License-Identifier: Apache-2.0
// The vector type of a tier: the widest fp32 vector the compiler flags of the including file allow.
//
// Included by the tier_*.cpp files INSIDE an anonymous namespace of their own, before the *_inl.hpp kernels, so that no
// code compiled for one machine can be merged by the linker into code that runs on another. For the same reason this
// file and the kernels use plain structs, functions and raw pointers only: no std templates. tier.hpp has the includes.
// Kernels contain no intrinsics; they are all here. (No include guard: each tier includes it once.)

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

constexpr int lanes = 16;
constexpr int registers = 32;
using Vec = __m512;

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
// The first n lanes, 0 <= n <= lanes; the others read as 0 and are not touched.
inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline Vec load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store_first(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
inline void accumulate(Vec& c, Vec a, Vec b) { c = fma(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // b when either is NaN
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }  // b when either is NaN
inline float reduce_add(Vec a) { return _mm512_reduce_add_ps(a); }
inline float reduce_max(Vec a) { return _mm512_reduce_max_ps(a); }
inline float reduce_min(Vec a) { return _mm512_reduce_min_ps(a); }
// Bit i says a[i] > b[i] (>=); false when either is NaN.
inline unsigned greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline unsigned greater_equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline unsigned not_a_number(Vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
// x where bound <= x or x is NaN, else 0.
inline Vec zero_below(Vec test, Vec bound, Vec x) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, bound, _CMP_NLT_UQ), x);
}
inline Vec round(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// p * 2^n for whole n in -126..127.
inline Vec scale_by_power(Vec p, Vec n) { return _mm512_scalef_ps(p, n); }

inline Vec load(const std::uint16_t* p, Bf16) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
inline Vec load(const std::uint16_t* p, F16) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store(std::uint16_t* p, Vec x, Bf16) {  // round to nearest even; NaN stays a quiet NaN
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i high = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  high = _mm512_mask_mov_epi32(high, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                               _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(high));
}
inline void store(std::uint16_t* p, Vec x, F16) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
// rows[i] holds row i on entry and column i on return.
inline void transpose(Vec (&rows)[lanes]) {
  Vec a[lanes], b[lanes];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    const __m512d x0 = _mm512_castps_pd(a[i]), x1 = _mm512_castps_pd(a[i + 1]);
    const __m512d y0 = _mm512_castps_pd(a[i + 2]), y1 = _mm512_castps_pd(a[i + 3]);
    b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x0, y0));
    b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x0, y0));
    b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(x1, y1));
    b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(x1, y1));
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_f32x4(a[i], a[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_f32x4(a[i], a[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_f32x4(a[i + 4], a[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_f32x4(a[i + 4], a[i + 12], 0xdd);
  }
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

constexpr int lanes = 8;
constexpr int registers = 16;
using Vec = __m256;

inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec set(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load_first(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
inline void store_first(float* p, Vec x, int n) { _mm256_maskstore_ps(p, first_lanes(n), x); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
// c += a * b where c is. Left the choice of the register that takes the result, g++ 12 copied and spilled sums of a
// register tile as soon as its loop was unrolled.
inline void accumulate(Vec& c, Vec a, Vec b) { asm("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b)); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline float reduce_add(Vec a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline float reduce_max(Vec a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline float reduce_min(Vec a) {
  __m128 x = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_min_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_min_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline unsigned greater(Vec a, Vec b) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
}
inline unsigned greater_equal(Vec a, Vec b) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
inline unsigned not_a_number(Vec a) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}
inline Vec zero_below(Vec test, Vec bound, Vec x) { return _mm256_and_ps(_mm256_cmp_ps(test, bound, _CMP_NLT_UQ), x); }
inline Vec round(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec scale_by_power(Vec p, Vec n) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}

inline Vec load(const std::uint16_t* p, Bf16) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
inline Vec load(const std::uint16_t* p, F16) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store(std::uint16_t* p, Vec x, Bf16) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i high = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
}
inline void store(std::uint16_t* p, Vec x, F16) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
inline void transpose(Vec (&rows)[lanes]) {
  Vec a[lanes], b[lanes];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

#else  // plain C++ over the compiler's four-lane vectors: SSE2 on x86-64, NEON on Arm

constexpr int lanes = 4;
constexpr int registers = 16;
typedef float Vec __attribute__((vector_size(16)));
typedef float LooseVec __attribute__((vector_size(16), aligned(4), may_alias));  // anywhere in memory
typedef std::int32_t Bits __attribute__((vector_size(16)));
typedef std::uint32_t Word __attribute__((vector_size(16)));

inline Vec zero() { return Vec{}; }
inline Vec set(float x) { return Vec{x, x, x, x}; }
inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline void store(float* p, Vec x) { *reinterpret_cast<LooseVec*>(p) = x; }
inline Vec load_first(const float* p, int n) {
  Vec x{};
  for (int i = 0; i < n; ++i) x[i] = p[i];
  return x;
}
inline void store_first(float* p, Vec x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x[i];
}
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec div(Vec a, Vec b) { return a / b; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline void accumulate(Vec& c, Vec a, Vec b) { c = a * b + c; }
inline Vec choose(Bits mask, Vec yes, Vec no) {
  return reinterpret_cast<Vec>((mask & reinterpret_cast<Bits>(yes)) | (~mask & reinterpret_cast<Bits>(no)));
}
inline Vec max(Vec a, Vec b) { return choose(a > b, a, b); }
inline Vec min(Vec a, Vec b) { return choose(a < b, a, b); }
inline float reduce_add(Vec a) { return (a[0] + a[2]) + (a[1] + a[3]); }
inline float larger(float a, float b) { return a > b ? a : b; }
inline float smaller(float a, float b) { return a < b ? a : b; }
inline float reduce_max(Vec a) { return larger(larger(a[0], a[2]), larger(a[1], a[3])); }
inline float reduce_min(Vec a) { return smaller(smaller(a[0], a[2]), smaller(a[1], a[3])); }
inline unsigned to_mask(Bits m) {
#if defined(__SSE2__)
  return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(m)));
#else
  return static_cast<unsigned>((m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8));
#endif
}
inline unsigned greater(Vec a, Vec b) { return to_mask(a > b); }
inline unsigned greater_equal(Vec a, Vec b) { return to_mask(a >= b); }
inline unsigned not_a_number(Vec a) { return to_mask(a != a); }
inline Vec zero_below(Vec test, Vec bound, Vec x) {
  return reinterpret_cast<Vec>(~(test < bound) & reinterpret_cast<Bits>(x));
}
inline Vec round(Vec x) {  // for |x| < 2^22; adding 1.5 * 2^23 leaves the whole part in the low bits
  const Vec magic = set(12582912.0f);
  return (x + magic) - magic;
}
inline Vec scale_by_power(Vec p, Vec n) {
  // Unsigned: lanes that nobody reads may hold any n.
  const Word exponent = reinterpret_cast<Word>(__builtin_convertvector(n, Bits)) << 23;
  return reinterpret_cast<Vec>(reinterpret_cast<Word>(p) + exponent);
}

inline float widen(std::uint16_t x, Bf16) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
inline float widen(std::uint16_t x, F16) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x & 0x8000) << 16, rest = x & 0x7fff;
  std::uint32_t bits;
  float value;
  if (rest >= 0x7c00) {  // infinity, NaN
    bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
  } else if (rest >= 0x400) {
    bits = sign | ((rest << 13) + 0x38000000);
  } else {  // subnormal: rest * 2^-24, exact in fp32
    value = static_cast<float>(rest) * 5.9604644775390625e-08f;
    return sign ? -value : value;
  }
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
inline std::uint16_t narrow(float x, Bf16) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (x != x) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline std::uint16_t narrow(float x, F16) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const std::uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<std::uint16_t>(sign | 0x7e00 | (bits >> 13 & 0x3ff));
  if (bits >= 0x477ff000) return static_cast<std::uint16_t>(sign | 0x7c00);  // 65520 and more round to infinity
  if (bits < 0x38800000) {  // subnormal: adding 0.5 leaves x * 2^24, rounded to nearest even, in the low bits
    float value;
    __builtin_memcpy(&value, &bits, 4);
    value += 0.5f;
    std::uint32_t sum;
    __builtin_memcpy(&sum, &value, 4);
    return static_cast<std::uint16_t>(sign | (sum - 0x3f000000));
  }
  return static_cast<std::uint16_t>(sign | (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}
template <class Element>
inline Vec load(const std::uint16_t* p, Element e) {
  return Vec{widen(p[0], e), widen(p[1], e), widen(p[2], e), widen(p[3], e)};
}
template <class Element>
inline void store(std::uint16_t* p, Vec x, Element e) {
  for (int i = 0; i < lanes; ++i) p[i] = narrow(x[i], e);
}
inline void transpose(Vec (&rows)[lanes]) {
  for (int i = 0; i < lanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float swap = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = swap;
    }
  }
}

#endif

inline Vec load(const float* p, F32) { return load(p); }
inline void store(float* p, Vec x, F32) { store(p, x); }

// Steps along k in one go of the inner loop of a product. Where another thread runs on the same core, each gets half of
// the slots in which instructions start, and counter, pointers and jump take 3 of the 23 a step of AVX2 has: 10 % of
// the time of a product there (77 against 91 GFLOP/s of 103, operands in L1). A step of AVX-512 has twice the
// multiply-adds; the sums of plain vectors spill (23 % more instructions).
constexpr int steps = lanes == 8 ? 4 : 1;

// 2^x for x <= 127; exactly 0 below -126 (a far key costs neither denormals nor rounding), NaN for NaN. Relative error
// 2e-9 before rounding: a minimax polynomial of degree 6 on [-1/2, 1/2] with p(0) = 1. Degree 5 (9e-8) saves one of
// some twelve instructions and costs half of the error budget of fp32.
inline Vec exp2(Vec x) {
  const Vec low = set(-126.0f), y = max(low, x);
  const Vec n = round(y), f = sub(y, n);
  Vec p = set(0.00015353361959569156f);
  p = fma(p, f, set(0.0013398875016719103f));
  p = fma(p, f, set(0.00961843691766262f));
  p = fma(p, f, set(0.055503323674201965f));
  p = fma(p, f, set(0.24022647738456726f));
  p = fma(p, f, set(0.6931471824645996f));
  p = fma(p, f, set(1.0f));
  return zero_below(x, low, scale_by_power(p, n));
}
