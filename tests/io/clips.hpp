// SPDX-License-Identifier: Apache-2.0
// Synthetic frames, and measures on them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "io/video.hpp"

namespace vmoba::test {

// Smooth colours that drift, and a square that moves.
inline io::Frames moving_clip(std::int64_t frames, std::int64_t height, std::int64_t width, double fps) {
  io::Frames out{frames, height, width, fps, {}};
  for (std::int64_t f = 0; f < frames; ++f) {
    for (std::int64_t y = 0; y < height; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        const bool square = std::llabs(x - width / 4 - f) < height / 6 && std::llabs(y - height / 2) < height / 6;
        const double u = 6.28 * static_cast<double>(x + f) / static_cast<double>(width);
        const double v = 3.14 * static_cast<double>(y) / static_cast<double>(height);
        out.rgb.push_back(square ? 230 : static_cast<std::uint8_t>(127 + 90 * std::sin(u)));
        out.rgb.push_back(square ? 60 : static_cast<std::uint8_t>(127 + 90 * std::cos(v)));
        out.rgb.push_back(square ? 40 : static_cast<std::uint8_t>(127 + 60 * std::sin(u + v)));
      }
    }
  }
  return out;
}

inline io::Frames solid_clip(std::int64_t frames, std::int64_t height, std::int64_t width, double fps, int r, int g,
                             int b) {
  io::Frames out{frames, height, width, fps, {}};
  for (std::int64_t i = 0; i < frames * height * width; ++i) {
    out.rgb.push_back(static_cast<std::uint8_t>(r));
    out.rgb.push_back(static_cast<std::uint8_t>(g));
    out.rgb.push_back(static_cast<std::uint8_t>(b));
  }
  return out;
}

// Frame f is uniformly grey of level 20 + step f: a decoded frame tells which one it is.
inline io::Frames counting_clip(std::int64_t frames, int step, double fps) {
  io::Frames out{frames, 32, 32, fps, {}};
  for (std::int64_t f = 0; f < frames; ++f)
    out.rgb.insert(out.rgb.end(), 32 * 32 * 3, static_cast<std::uint8_t>(20 + step * f));
  return out;
}
inline std::vector<int> counted(const io::Frames& frames, int step) {
  std::vector<int> out;
  const auto size = static_cast<std::size_t>(frames.height * frames.width * 3);
  for (std::int64_t f = 0; f < frames.frames; ++f) {
    double sum = 0;
    for (std::size_t i = 0; i < size; ++i) sum += frames.rgb[static_cast<std::size_t>(f) * size + i];
    out.push_back(static_cast<int>(std::lround((sum / static_cast<double>(size) - 20) / step)));
  }
  return out;
}

inline double psnr(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.size()) / std::max(sum, 1e-9));
}

// Real clips, where there are any: VMOBA_CLIPS, or the folder beside the sources.
inline std::vector<std::string> real_clips(const std::string& source_folder) {
  const char* named = std::getenv("VMOBA_CLIPS");
  const std::string folder = named != nullptr ? named : source_folder + "/../shared/data/videos";
  std::error_code missing;
  if (!std::filesystem::is_directory(folder, missing)) return {};
  return io::video_files(folder);
}

}  // namespace vmoba::test
