// SPDX-License-Identifier: Apache-2.0
// 255 colours for a clip, and its pixels as indices into them: what GIF needs.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "io/video.hpp"

namespace vmoba::io {

// One palette for the whole clip and an ordered dither that stands still, so that still parts of the picture do not
// flicker. Deterministic. Not thread-safe (indices are found as colours come up).
class Palette {
 public:
  explicit Palette(const Frames& frames);
  // 0xAARRGGBB; the last entry is transparent and no pixel gets it (the encoder marks unchanged pixels with it).
  const std::array<std::uint32_t, 256>& colours() const { return colours_; }
  // rgb [height, width, 3] -> indices [height, stride]
  void map(const std::uint8_t* rgb, std::int64_t height, std::int64_t width, std::uint8_t* indices,
           std::int64_t stride);

 private:
  std::uint8_t nearest(int r, int g, int b) const;
  std::array<std::uint32_t, 256> colours_{};
  std::array<std::array<std::int32_t, 256>, 3> channels_{};
  int used_ = 0;
  std::vector<std::int16_t> known_;  // [64 * 64 * 64], index of the nearest colour or -1
};

}  // namespace vmoba::io
