// SPDX-License-Identifier: Apache-2.0
// What rendered clips are made of: outlines as signed distances, and surfaces.
#pragma once

#include <cstdint>
#include <vector>

namespace vmoba::dit {

struct Colour {
  double r = 0, g = 0, b = 0;  // 0..1
};
constexpr Colour mix(const Colour& a, const Colour& b, double w) {
  return {a.r + (b.r - a.r) * w, a.g + (b.g - a.g) * w, a.b + (b.b - a.b) * w};
}

enum class Outline { circle, square, triangle, star, ring, hexagon, cross };
// Signed distance from (x, y) to the outline, negative inside; all outlines lie within the unit circle.
double distance(Outline outline, double x, double y);

enum class Surface { plain, striped, checkered, spotted, marbled };
// Share of the second colour at (x, y), 0..1, edges softened over `pixel` (the size of a pixel in these units).
double second_colour(Surface surface, double x, double y, double pixel, std::uint64_t seed);

// Smooth noise in 0..1 of four octaves, the lattice repeating every `period` units; x and y in 0 .. period.
double noise(double x, double y, std::int64_t period, std::uint64_t seed);

}  // namespace vmoba::dit
