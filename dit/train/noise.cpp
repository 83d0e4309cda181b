// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox4x32-10 (torch's engine) keyed by seed and stream, Box-Muller for normals.
#include "dit/train/noise.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/PhiloxRNGEngine.h>
#include <ATen/ops/empty.h>

#include <array>
#include <cmath>
#include <numbers>

namespace vmoba::dit {
namespace {

// Two independent normals from block `counter` of a stream.
std::array<double, 2> normal_pair(const Stream& stream, std::uint64_t counter) {
  const std::uint64_t subsequence = (static_cast<std::uint64_t>(stream.purpose) << 56) ^ stream.number;
  at::Philox4_32 engine(stream.seed, subsequence, counter);
  const double a = (static_cast<double>(engine()) + 0.5) * 0x1p-32;  // never 0: its logarithm is taken
  const double b = (static_cast<double>(engine()) + 0.5) * 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log(a)), angle = 2.0 * std::numbers::pi * b;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace

double uniform(const Stream& stream, std::uint64_t index) {
  const std::uint64_t subsequence = (static_cast<std::uint64_t>(stream.purpose) << 56) ^ stream.number;
  at::Philox4_32 engine(stream.seed, subsequence, index);
  return (static_cast<double>(engine()) + 0.5) * 0x1p-32;
}

double normal(const Stream& stream, std::uint64_t index) { return normal_pair(stream, index / 2)[index % 2]; }

at::Tensor normal_tensor(at::IntArrayRef shape, const Stream& stream) {
  at::Tensor result = at::empty(shape, at::kFloat);
  float* const out = result.data_ptr<float>();
  const std::int64_t count = result.numel();
  at::parallel_for(0, (count + 1) / 2, 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t pair = begin; pair < end; ++pair) {
      const auto [first, second] = normal_pair(stream, static_cast<std::uint64_t>(pair));
      out[2 * pair] = static_cast<float>(first);
      if (2 * pair + 1 < count) out[2 * pair + 1] = static_cast<float>(second);
    }
  });
  return result;
}

}  // namespace vmoba::dit
