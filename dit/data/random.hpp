// SPDX-License-Identifier: Apache-2.0
// Integer random numbers that are the same on every machine, addressed by counters.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace vmoba::dit {

// splitmix64's finalizer (Steele, Lea, Flood 2014): every input bit reaches every output bit.
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// A stream of numbers that depends on its keys alone, e.g. Random{seed, split, index, sample}.
class Random {
 public:
  constexpr Random(std::initializer_list<std::uint64_t> keys) {
    for (const std::uint64_t key : keys)
      state_ = mix(state_ + 0x9E3779B97F4A7C15ull + mix(key + 0x632BE59BD9B4E019ull));
  }
  constexpr std::uint64_t bits() { return mix(state_ += 0x9E3779B97F4A7C15ull); }
  // 0 .. n - 1; the bias of 2^-32 n is far below what 2^32 draws could show. n in 1 .. 2^32.
  constexpr std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(((bits() >> 32) * static_cast<std::uint64_t>(n)) >> 32);
  }
  constexpr double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
  constexpr double uniform(double low, double high) { return low + (high - low) * uniform(); }

 private:
  std::uint64_t state_ = 0;
};

}  // namespace vmoba::dit
