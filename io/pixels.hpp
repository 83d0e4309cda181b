// SPDX-License-Identifier: Apache-2.0
// Any decoded frame to packed RGB of a wanted size: crop, scale, colour, rotation.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "io/ffmpeg.hpp"

namespace vmoba::io {

// Keeps the scaler of the last frame; one object a file. Not thread-safe.
class ToRgb {
 public:
  // quarter_turns: clockwise turns that make the picture upright.
  explicit ToRgb(int quarter_turns = 0) : turns_(quarter_turns & 3) {}
  // The size of an upright frame when the caller wants height x width, of which 0 follows from the frame.
  std::pair<std::int64_t, std::int64_t> size_of(const AVFrame& frame, std::int64_t height, std::int64_t width) const;
  // Covers height x width (upright) with the frame's centre and appends the RGB bytes to out. Downscaling averages
  // areas, upscaling is bicubic; the sample aspect ratio is honoured. False when FFmpeg cannot convert this frame; out
  // is unchanged.
  bool append(const AVFrame& frame, std::int64_t height, std::int64_t width, std::vector<std::uint8_t>& out);

 private:
  int turns_;
  ScalerPtr scaler_;
  FramePtr picture_;
  std::tuple<int, int, int, int, int, int, int> key_{};  // format, source size, target size, matrix, range
};

}  // namespace vmoba::io
