// SPDX-License-Identifier: Apache-2.0
// What reading and writing video share: owners of FFmpeg's objects, its log, its errors.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <memory>
#include <string>

namespace vmoba::io {

inline constexpr std::int64_t size_limit = 16384;  // pixels per side, read or written

template <auto Free>
struct FreeByAddress {
  template <class T>
  void operator()(T* p) const {
    Free(&p);
  }
};
struct FreeScaler {
  void operator()(SwsContext* p) const { sws_freeContext(p); }
};
using FramePtr = std::unique_ptr<AVFrame, FreeByAddress<av_frame_free>>;
using PacketPtr = std::unique_ptr<AVPacket, FreeByAddress<av_packet_free>>;
using CodecPtr = std::unique_ptr<AVCodecContext, FreeByAddress<avcodec_free_context>>;
using ScalerPtr = std::unique_ptr<SwsContext, FreeScaler>;

// FFmpeg writes to stderr through one log level of the whole process, and its formats offer no level of their own.
// While any Quiet lives the level is "quiet"; the last one restores what the host program had set. A host with a log
// callback of its own keeps it. Thread-safe.
class Quiet {
 public:
  Quiet();
  ~Quiet();
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};

std::string ffmpeg_words(int error);  // "Invalid data found when processing input"

}  // namespace vmoba::io
