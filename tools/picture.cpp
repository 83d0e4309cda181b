// SPDX-License-Identifier: Apache-2.0
// Heat maps as PNG files.
#include "tools/picture.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "io/video.hpp"

namespace vmoba::tools {

namespace {

// Eight support points of the viridis map, which reads the same in grey and for colour-blind eyes.
constexpr std::array<std::array<double, 3>, 8> ramp{{{68, 1, 84},
                                                     {70, 50, 127},
                                                     {54, 92, 141},
                                                     {39, 127, 142},
                                                     {31, 161, 135},
                                                     {74, 194, 109},
                                                     {159, 218, 58},
                                                     {253, 231, 37}}};

}  // namespace

Picture::Picture(std::int64_t width, std::int64_t height, std::uint8_t grey)
    : width(width), height(height), rgb(static_cast<std::size_t>(width * height * 3), grey) {}

void Picture::put(std::int64_t x, std::int64_t y, const std::uint8_t* colour) {
  std::copy_n(colour, 3, rgb.begin() + (y * width + x) * 3);
}

void Picture::paste(const Picture& other, std::int64_t x, std::int64_t y) {
  for (std::int64_t row = 0; row < other.height; ++row)
    std::copy_n(other.rgb.begin() + row * other.width * 3, other.width * 3, rgb.begin() + ((y + row) * width + x) * 3);
}

Picture heat_map(const std::vector<double>& values, std::int64_t rows, std::int64_t columns, double low, double high,
                 std::int64_t cell) {
  Picture out(columns * cell, rows * cell);
  for (std::int64_t y = 0; y < rows; ++y)
    for (std::int64_t x = 0; x < columns; ++x) {
      const double value = values[y * columns + x];
      std::array<std::uint8_t, 3> colour{200, 200, 200};
      if (!std::isnan(value)) {
        const double share = high > low ? std::clamp((value - low) / (high - low), 0.0, 1.0) : 0.0;
        const double place = share * (ramp.size() - 1);
        const auto step = std::min<std::size_t>(static_cast<std::size_t>(place), ramp.size() - 2);
        for (int c = 0; c < 3; ++c)
          colour[c] = static_cast<std::uint8_t>(
              std::lround(ramp[step][c] + (ramp[step + 1][c] - ramp[step][c]) * (place - static_cast<double>(step))));
      }
      for (std::int64_t dy = 0; dy < cell; ++dy)
        for (std::int64_t dx = 0; dx < cell; ++dx) out.put(x * cell + dx, y * cell + dy, colour.data());
    }
  return out;
}

Picture sheet(const std::vector<Picture>& pictures, std::int64_t columns, std::int64_t gap) {
  if (pictures.empty()) return Picture(1, 1);
  columns = std::min<std::int64_t>(columns, static_cast<std::int64_t>(pictures.size()));
  const std::int64_t rows = (static_cast<std::int64_t>(pictures.size()) + columns - 1) / columns;
  const std::int64_t width = pictures[0].width + gap, height = pictures[0].height + gap;
  Picture out(columns * width + gap, rows * height + gap);
  for (std::size_t i = 0; i < pictures.size(); ++i)
    out.paste(pictures[i], gap + static_cast<std::int64_t>(i) % columns * width,
              gap + static_cast<std::int64_t>(i) / columns * height);
  return out;
}

void write(const Picture& picture, const std::string& path) {
  io::write_png(path, picture.width, picture.height, picture.rgb.data());
}

}  // namespace vmoba::tools
