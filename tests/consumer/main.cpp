// SPDX-License-Identifier: Apache-2.0
// The README's ten lines as a program outside the project: select, attend, and a refusal.
#include <cmath>
#include <cstdio>
#include <vector>
#include <vmoba/vmoba.hpp>

int main() {
  const vmoba::Problem problem(
      {.grid = {3, 6, 7}, .block = {2, 3, 4}, .heads = 2, .dim = 64, .policy = vmoba::Threshold{0.25}});
  const std::size_t size = 3 * 6 * 7 * 2 * 64;
  std::vector<float> q(size), k(size), v(size), out(size), lse(size / 64);
  for (std::size_t i = 0; i < size; ++i) {
    q[i] = std::sin(0.37F * i), k[i] = std::cos(0.11F * i), v[i] = 1;
  }
  const vmoba::Selection picked = vmoba::select(problem, q, k);
  vmoba::attend(problem, picked, q, k, v, out, lse);
  for (const float value : out) {
    if (std::abs(value - 1) > 1e-5F) return 1;  // a mean of ones
  }
  try {
    const vmoba::Problem wrong({.grid = {3, 6, 7}, .block = {2, 9, 4}, .dim = 64});
    return 1;
  } catch (const vmoba::Error& error) {
    std::printf("vmoba %s, density %.3f; refused: %s\n", vmoba::version.data(), picked.density(), error.what());
  }
  return 0;
}
