// SPDX-License-Identifier: Apache-2.0
// Heat maps as PNG files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vmoba::tools {

// Packed RGB, row after row.
struct Picture {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;
  Picture(std::int64_t width, std::int64_t height, std::uint8_t grey = 255);
  void put(std::int64_t x, std::int64_t y, const std::uint8_t* colour);
  void paste(const Picture& other, std::int64_t x, std::int64_t y);
};

// values [rows x columns], each a square of cell pixels; low..high runs from dark blue over green to yellow. NaN is
// grey.
Picture heat_map(const std::vector<double>& values, std::int64_t rows, std::int64_t columns, double low, double high,
                 std::int64_t cell);
// Pictures of equal size in a sheet of so many columns, gap white pixels apart.
Picture sheet(const std::vector<Picture>& pictures, std::int64_t columns, std::int64_t gap = 4);
void write(const Picture& picture, const std::string& path);  // io::write_png; throws Error(kind file)

}  // namespace vmoba::tools
