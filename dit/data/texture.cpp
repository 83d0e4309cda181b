// SPDX-License-Identifier: Apache-2.0
// Outlines and surfaces of rendered clips. Only +, -, *, / and sqrt, which every machine rounds alike.
#include "dit/data/texture.hpp"

#include <algorithm>
#include <cmath>

#include "dit/data/random.hpp"

namespace vmoba::dit {
namespace {

double length(double x, double y) { return std::sqrt(x * x + y * y); }

// Distance to a closed polygon, negative inside (winding by crossings).
double polygon(const double (*points)[2], int n, double x, double y) {
  double least = 1e9;
  bool inside = false;
  for (int i = 0, j = n - 1; i < n; j = i++) {
    const double ex = points[j][0] - points[i][0], ey = points[j][1] - points[i][1];
    const double wx = x - points[i][0], wy = y - points[i][1];
    const double along = std::clamp((wx * ex + wy * ey) / (ex * ex + ey * ey), 0.0, 1.0);
    const double dx = wx - ex * along, dy = wy - ey * along;
    least = std::min(least, dx * dx + dy * dy);
    if ((points[i][1] > y) != (points[j][1] > y) && x < points[i][0] + ex * (y - points[i][1]) / ey) inside = !inside;
  }
  return inside ? -std::sqrt(least) : std::sqrt(least);
}

constexpr double triangle[3][2] = {{0, -1}, {0.8660254, 0.5}, {-0.8660254, 0.5}};
constexpr double hexagon[6][2] = {{1, 0},  {0.5, 0.8660254},   {-0.5, 0.8660254},
                                  {-1, 0}, {-0.5, -0.8660254}, {0.5, -0.8660254}};
constexpr double star[10][2] = {
    {0, -1},     {0.2587, -0.3560}, {0.9511, -0.3090}, {0.4185, 0.1360},   {0.5878, 0.8090},
    {0, 0.4400}, {-0.5878, 0.8090}, {-0.4185, 0.1360}, {-0.9511, -0.3090}, {-0.2587, -0.3560}};
constexpr double cross[12][2] = {{0.32, 0.9},   {0.32, 0.32}, {0.9, 0.32},   {0.9, -0.32},
                                 {0.32, -0.32}, {0.32, -0.9}, {-0.32, -0.9}, {-0.32, -0.32},
                                 {-0.9, -0.32}, {-0.9, 0.32}, {-0.32, 0.32}, {-0.32, 0.9}};

// 0 below the edge, 1 above, a ramp one pixel wide between.
double step(double x, double pixel) { return std::clamp(0.5 + x / pixel, 0.0, 1.0); }

// A wave of period 1 between -0.25 and 0.25, zero at 0 and 1/2.
double triangle_wave(double x) {
  const double phase = x - std::floor(x);
  return phase < 0.25 ? phase : phase < 0.75 ? 0.5 - phase : phase - 1;
}

double lattice(std::int64_t x, std::int64_t y, std::uint64_t seed) {
  const auto key =
      static_cast<std::uint64_t>(x) * 0x9E3779B97F4A7C15ull + static_cast<std::uint64_t>(y) * 0xC2B2AE3D27D4EB4Full;
  return static_cast<double>(mix(key ^ seed) >> 11) * 0x1p-53;
}

}  // namespace

double distance(Outline outline, double x, double y) {
  switch (outline) {
    case Outline::circle:
      return length(x, y) - 0.95;
    case Outline::ring:
      return std::abs(length(x, y) - 0.7) - 0.25;
    case Outline::square: {
      const double dx = std::abs(x) - 0.7, dy = std::abs(y) - 0.7;
      return length(std::max(dx, 0.0), std::max(dy, 0.0)) + std::min(std::max(dx, dy), 0.0);
    }
    case Outline::triangle:
      return polygon(triangle, 3, x, y);
    case Outline::star:
      return polygon(star, 10, x, y);
    case Outline::hexagon:
      return polygon(hexagon, 6, x, y);
    case Outline::cross:
      return polygon(cross, 12, x, y);
  }
  return 1;
}

double noise(double x, double y, std::int64_t period, std::uint64_t seed) {
  double sum = 0, weight = 0.5;
  for (int octave = 0; octave < 4; ++octave) {
    const double fx = std::floor(x), fy = std::floor(y);
    const double u = x - fx, v = y - fy;
    // Callers stay within one period, where a subtraction replaces the slow remainder.
    const auto wrap = [&](double a) {
      const auto i = static_cast<std::int64_t>(a);
      return i < period ? i : i - period;
    };
    const std::int64_t x0 = wrap(fx), x1 = wrap(fx + 1), y0 = wrap(fy), y1 = wrap(fy + 1);
    const double su = u * u * (3 - 2 * u), sv = v * v * (3 - 2 * v);
    const double top = lattice(x0, y0, seed) + (lattice(x1, y0, seed) - lattice(x0, y0, seed)) * su;
    const double bottom = lattice(x0, y1, seed) + (lattice(x1, y1, seed) - lattice(x0, y1, seed)) * su;
    sum += weight * (top + (bottom - top) * sv);
    x *= 2, y *= 2, period *= 2, weight *= 0.5, seed = mix(seed + 1);
  }
  return sum / 0.9375;
}

double second_colour(Surface surface, double x, double y, double pixel, std::uint64_t seed) {
  switch (surface) {
    case Surface::plain:
      return 0;
    // Divided by the slope of the wave, so that `pixel` is in the units of x and y.
    case Surface::striped:
      return step(triangle_wave(x * 2.0) / 2.0, pixel);
    case Surface::checkered: {
      const double a = 2 * step(triangle_wave(x * 1.25) / 1.25, pixel) - 1,
                   b = 2 * step(triangle_wave(y * 1.25) / 1.25, pixel) - 1;
      return 0.5 + 0.5 * a * b;
    }
    case Surface::spotted: {
      const double u = x * 2.2, v = y * 2.2;
      return step((0.3 - length(u - std::floor(u) - 0.5, v - std::floor(v) - 0.5)) / 2.2, pixel);
    }
    case Surface::marbled: {
      const double n = noise(x * 1.6 + 32, y * 1.6 + 32, 64, seed);
      return std::clamp((n - 0.3) * 2.5, 0.0, 1.0);
    }
  }
  return 0;
}

}  // namespace vmoba::dit
