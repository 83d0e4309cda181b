// SPDX-License-Identifier: Apache-2.0
// multiply() with AMX tiles: four sums, two tiles of A and two of B fill the eight tile registers, so that a load feeds
// two products (16 cycles each; a load from L1 takes 8). Instructions are written as text because the intrinsics of
// g++ 12 do not say that a tile load reads memory, and take register numbers as literals only.

struct Tiles {
  Tiles() {
    alignas(64) unsigned char config[64] = {1};  // palette 1
    for (int i = 0; i < 8; ++i) {
      config[16 + 2 * i] = 64;  // bytes of a row
      config[48 + i] = 16;      // rows
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }
  ~Tiles() { __asm__ volatile("tilerelease" ::: "memory"); }
  Tiles(const Tiles&) = delete;
  template <int T>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int T>
  static void load(const void* from, std::int64_t bytes) {  // between rows
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(bytes), "i"(T) : "memory");
  }
  template <int T>
  static void store(void* to, std::int64_t bytes) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(bytes), "i"(T) : "memory");
  }
  template <int C, int A, int B>
  static void dot() {  // C += A B
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

// One panel of B: Columns tiles wide, against Strips strips of A.
template <int Strips, int Columns, bool Add, class Beside>
[[gnu::always_inline]] inline void multiply_panel_of_tiles(const std::uint16_t* a, std::int64_t a_strip,
                                                           const std::uint16_t* b, int steps, float* c,
                                                           std::int64_t c_stride, Beside& beside) {
  const std::int64_t bytes = c_stride * 4;
  float* second = c + 16 * c_stride;
  if constexpr (Add) {
    Tiles::load<0>(c, bytes);
    if constexpr (Columns == 2) Tiles::load<1>(c + 16, bytes);
    if constexpr (Strips == 2) Tiles::load<2>(second, bytes);
    if constexpr (Strips == 2 && Columns == 2) Tiles::load<3>(second + 16, bytes);
  } else {
    Tiles::zero<0>();
    if constexpr (Columns == 2) Tiles::zero<1>();
    if constexpr (Strips == 2) Tiles::zero<2>();
    if constexpr (Strips == 2 && Columns == 2) Tiles::zero<3>();
  }
#pragma GCC unroll 1
  for (int k = 0; k < steps; ++k, a += tile_size, b += Columns * tile_size) {
    Tiles::load<4>(a, 64);
    Tiles::load<6>(b, 64);
    if constexpr (Columns == 2) Tiles::load<7>(b + tile_size, 64);
    if constexpr (Strips == 2) Tiles::load<5>(a + a_strip, 64);
    Tiles::dot<0, 4, 6>();
    beside.step();
    if constexpr (Columns == 2) {
      Tiles::dot<1, 4, 7>();
      beside.step();
    }
    if constexpr (Strips == 2) {
      Tiles::dot<2, 5, 6>();
      beside.step();
    }
    if constexpr (Strips == 2 && Columns == 2) {
      Tiles::dot<3, 5, 7>();
      beside.step();
    }
  }
  Tiles::store<0>(c, bytes);
  if constexpr (Columns == 2) Tiles::store<1>(c + 16, bytes);
  if constexpr (Strips == 2) Tiles::store<2>(second, bytes);
  if constexpr (Strips == 2 && Columns == 2) Tiles::store<3>(second + 16, bytes);
}

// C[rows][16 columns] (+)= A B for up to 32 rows. A: two strips, a_strip values apart. B: panels. Rows of C are
// c_stride floats apart; all 16 or 32 of them are written.
template <bool Add, class Beside>
[[gnu::always_inline]] inline void multiply(Tiles&, const std::uint16_t* a, std::int64_t a_strip, int rows,
                                            const std::uint16_t* b, int steps, int columns, float* c,
                                            std::int64_t c_stride, Beside& beside) {
  const std::int64_t next = static_cast<std::int64_t>(steps) * 2 * tile_size;
  int n = 0;
  if (rows > 16) {
    for (; n + 1 < columns; n += 2, b += next) {
      multiply_panel_of_tiles<2, 2, Add>(a, a_strip, b, steps, c + n * 16, c_stride, beside);
    }
    if (n < columns) multiply_panel_of_tiles<2, 1, Add>(a, a_strip, b, steps, c + n * 16, c_stride, beside);
  } else {
    for (; n + 1 < columns; n += 2, b += next) {
      multiply_panel_of_tiles<1, 2, Add>(a, a_strip, b, steps, c + n * 16, c_stride, beside);
    }
    if (n < columns) multiply_panel_of_tiles<1, 1, Add>(a, a_strip, b, steps, c + n * 16, c_stride, beside);
  }
}
