// SPDX-License-Identifier: Apache-2.0
// Video and image files through FFmpeg and libpng. Every input file is treated as hostile.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vmoba::io {

// Packed RGB frames: rgb[((f * height + y) * width + x) * 3 + c].
struct Frames {
  std::int64_t frames = 0, height = 0, width = 0;
  double fps = 0;
  std::vector<std::uint8_t> rgb;
};

struct ReadOptions {
  double fps = 0;                // resample to this rate (nearest frame in time); 0 keeps the file's own
  std::int64_t height = 0, width = 0;  // resize to cover, then centre-crop; 0 keeps the file's own
  std::int64_t max_frames = 0;   // after resampling; 0: all, up to a memory cap of 4 GiB
  double start = 0;              // seconds
};
struct VideoInfo {
  std::int64_t width = 0, height = 0;
  double fps = 0, seconds = 0;
  std::string codec, container;
};

// Throw vmoba::Error(kind file) naming the path: missing, not a video, no frames, truncated before the first frame. A file that
// breaks off later gives the frames before the break, unless strict.
VideoInfo probe_video(const std::string& path);
Frames read_video(const std::string& path, const ReadOptions& options = {}, bool strict = false);

// Codec by extension: .mp4 H.264 (yuv420p, faststart, plays everywhere), .webm VP8 or VP9, .gif, .mkv. A path without extension
// or ending in / : a folder of PNG frames. Atomic as io::write_file. Odd sizes are padded by edge pixels to even for mp4/webm.
void write_video(const std::string& path, const Frames& frames, double quality = 0.8);
void write_png(const std::string& path, std::int64_t width, std::int64_t height, const std::uint8_t* rgb);
Frames read_png(const std::string& path);
std::vector<std::string> video_files(const std::string& directory);  // sorted; by extension

}  // namespace vmoba::io
