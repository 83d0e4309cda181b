// SPDX-License-Identifier: Apache-2.0
// Writing clips: H.264, VP8 or VP9, GIF through FFmpeg; folders of PNG frames.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "io/atomic_file.hpp"
#include "io/ffmpeg.hpp"
#include "io/file.hpp"
#include "io/palette.hpp"
#include "io/video.hpp"
#include "vmoba/error.hpp"

extern "C" {
#include <libavutil/opt.h>
}

namespace vmoba::io {
namespace {

struct Format {
  const char* extension;
  const char* muxer;
  const char* encoders[2];  // the first that this FFmpeg has
  bool gif;
};
constexpr Format formats[] = {
    {".mp4", "mp4", {"libx264", "libopenh264"}, false},
    {".webm", "webm", {"libvpx", "libvpx-vp9"}, false},
    {".mkv", "matroska", {"libx264", "libvpx"}, false},
    {".gif", "gif", {"gif", nullptr}, true},
};

void check(const Frames& frames, double quality) {
  const auto side = [](const char* name, std::int64_t value) {
    if (value < 1 || value > size_limit)
      throw_argument(name, std::to_string(value), "is not a size in pixels", "use 1..16384");
  };
  side("frames.height", frames.height);
  side("frames.width", frames.width);
  if (frames.frames < 1)
    throw_argument("frames.frames", std::to_string(frames.frames), "is not a number of frames", "write at least one");
  const auto bytes =
      static_cast<std::uint64_t>(frames.frames) * static_cast<std::uint64_t>(frames.height * frames.width) * 3;
  if (frames.rgb.size() != bytes) {
    throw_argument("frames.rgb", std::to_string(frames.rgb.size()) + " bytes",
                   "does not match frames x height x width x 3", "give " + std::to_string(bytes) + " bytes");
  }
  if (!(frames.fps > 0 && frames.fps <= 1000)) {
    throw_argument("frames.fps", std::to_string(frames.fps), "is not a frame rate", "use more than 0 and at most 1000");
  }
  if (!(quality >= 0 && quality <= 1)) throw_argument("quality", std::to_string(quality), "is outside 0..1", "use 0.8");
}

// Destroys an output context together with the file it holds open.
struct CloseOutput {
  void operator()(AVFormatContext* context) const {
    if (context->pb != nullptr) avio_closep(&context->pb);
    avformat_free_context(context);
  }
};
using OutputPtr = std::unique_ptr<AVFormatContext, CloseOutput>;

class Writer {
 public:
  Writer(const std::string& path, const Format& format, const Frames& frames, double quality)
      : path_(path), format_(format), frames_(frames), file_(path) {
    AVFormatContext* context = nullptr;
    // "file:" keeps a colon in the path from being read as a protocol.
    const std::string url = "file:" + file_.temporary();
    require(avformat_alloc_output_context2(&context, nullptr, format.muxer, url.c_str()), "cannot be started");
    output_.reset(context);
    output_->flags |= AVFMT_FLAG_BITEXACT;  // no version strings and no dates
    open_encoder(quality);
    stream_ = avformat_new_stream(output_.get(), nullptr);
    if (stream_ == nullptr) throw std::bad_alloc();
    stream_->time_base = encoder_->time_base;
    stream_->avg_frame_rate = encoder_->framerate;
    require(avcodec_parameters_from_context(stream_->codecpar, encoder_.get()), "cannot be described");
    require(avio_open(&output_->pb, url.c_str(), AVIO_FLAG_WRITE), "cannot be written");
    AVDictionary* options = nullptr;
    if (std::strcmp(format.muxer, "mp4") == 0) av_dict_set(&options, "movflags", "+faststart", 0);
    const int code = avformat_write_header(output_.get(), &options);
    av_dict_free(&options);
    require(code, "cannot be written");
  }

  void run() {
    if (format_.gif) {
      write_gif_frames();
    } else {
      write_yuv_frames();
    }
    encode(nullptr);
    require(av_write_trailer(output_.get()), "cannot be finished");
    avio_flush(output_->pb);
    require(output_->pb->error, "cannot be written");
    require(avio_closep(&output_->pb), "cannot be closed");
    file_.commit();
  }

 private:
  void require(int code, const char* what) const {
    if (code < 0)
      throw_file(path_, std::string(what) + " (" + ffmpeg_words(code) + ")",
                 "check the folder and the space on the disk");
  }

  void open_encoder(double quality) {
    const AVCodec* codec = nullptr;
    for (const char* name : format_.encoders) {
      if (codec == nullptr && name != nullptr) codec = avcodec_find_encoder_by_name(name);
    }
    if (codec == nullptr) {
      throw Error(Error::Kind::unsupported, "path", path_,
                  std::string("needs the FFmpeg encoder ") + format_.encoders[0],
                  "install an FFmpeg that has it, or write .gif or a folder of PNG frames");
    }
    encoder_.reset(avcodec_alloc_context3(codec));
    if (!encoder_) throw std::bad_alloc();
    encoder_->width = static_cast<int>(format_.gif ? frames_.width : (frames_.width + 1) / 2 * 2);
    encoder_->height = static_cast<int>(format_.gif ? frames_.height : (frames_.height + 1) / 2 * 2);
    encoder_->framerate = av_d2q(frames_.fps, 100'000);
    encoder_->time_base = format_.gif ? AVRational{1, 100} : av_inv_q(encoder_->framerate);
    encoder_->sample_aspect_ratio = {1, 1};
    encoder_->thread_count = 1;  // the same bytes for any number of cores; x264 alone is not reproducible even so
    encoder_->flags |= AV_CODEC_FLAG_BITEXACT;
    if (output_->oformat->flags & AVFMT_GLOBALHEADER) encoder_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    AVDictionary* options = nullptr;
    if (format_.gif) {
      encoder_->pix_fmt = AV_PIX_FMT_PAL8;
    } else {
      encoder_->pix_fmt = AV_PIX_FMT_YUV420P;
      // VP8 has no tag for its matrix and means BT.601; H.264 says what it holds, and BT.709 is what untagged players
      // assume.
      rec709_ = codec->id == AV_CODEC_ID_H264;
      encoder_->colorspace = rec709_ ? AVCOL_SPC_BT709 : AVCOL_SPC_SMPTE170M;
      encoder_->color_primaries = rec709_ ? AVCOL_PRI_BT709 : AVCOL_PRI_SMPTE170M;
      encoder_->color_trc = rec709_ ? AVCOL_TRC_BT709 : AVCOL_TRC_SMPTE170M;
      encoder_->color_range = AVCOL_RANGE_MPEG;
      if (codec->id == AV_CODEC_ID_H264) {
        av_dict_set(&options, "preset", "fast", 0);
        av_dict_set_int(&options, "crf", std::lround(51 - 39 * quality), 0);  // 0.8: 20
      } else {
        av_dict_set_int(&options, "crf", std::lround(63 - 56 * quality), 0);  // 0.8: 18
        av_dict_set(&options, "deadline", "good", 0);
        av_dict_set(&options, "cpu-used", "2", 0);
        // crf works below this ceiling only; 6 bits a pixel never bind.
        encoder_->bit_rate =
            static_cast<std::int64_t>(std::clamp(6.0 * encoder_->width * encoder_->height * frames_.fps, 1e6, 1e9));
      }
    }
    const int code = avcodec_open2(encoder_.get(), codec, &options);
    av_dict_free(&options);
    require(code, "cannot be coded");
  }

  FramePtr new_picture() const {
    FramePtr picture(av_frame_alloc());
    if (!picture) throw std::bad_alloc();
    picture->format = encoder_->pix_fmt;
    picture->width = encoder_->width;
    picture->height = encoder_->height;
    picture->colorspace = encoder_->colorspace;
    picture->color_range = encoder_->color_range;
    require(av_frame_get_buffer(picture.get(), 0), "cannot be coded");
    return picture;
  }
  const std::uint8_t* rgb(std::int64_t f) const { return frames_.rgb.data() + f * frames_.height * frames_.width * 3; }

  void write_yuv_frames() {
    const int w = encoder_->width, h = encoder_->height;
    const ScalerPtr scaler(sws_getContext(w, h, AV_PIX_FMT_RGB24, w, h, AV_PIX_FMT_YUV420P,
                                          SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INP, nullptr,
                                          nullptr, nullptr));
    if (!scaler) throw std::bad_alloc();
    sws_setColorspaceDetails(scaler.get(), sws_getCoefficients(SWS_CS_DEFAULT), 1,
                             sws_getCoefficients(rec709_ ? SWS_CS_ITU709 : SWS_CS_ITU601), 0, 0, 1 << 16, 1 << 16);
    // Rows padded to 64 bytes: the scaler reads whole vectors.
    const std::size_t stride = (static_cast<std::size_t>(w) * 3 + 127) / 64 * 64;
    std::vector<std::uint8_t> padded(stride * static_cast<std::size_t>(h));
    for (std::int64_t f = 0; f < frames_.frames; ++f) {
      for (int y = 0; y < h; ++y) {
        std::uint8_t* row = padded.data() + static_cast<std::size_t>(y) * stride;
        const auto n = static_cast<std::size_t>(frames_.width) * 3;
        std::memcpy(row, rgb(f) + std::min<std::int64_t>(y, frames_.height - 1) * frames_.width * 3, n);
        if (w > frames_.width) std::memcpy(row + n, row + n - 3, 3);
      }
      const FramePtr picture = new_picture();
      const std::uint8_t* const planes[4] = {padded.data()};
      const int strides[4] = {static_cast<int>(stride)};
      sws_scale(scaler.get(), planes, strides, 0, h, picture->data, picture->linesize);
      picture->pts = f;
      picture->pkt_duration = 1;
      encode(picture.get());
    }
  }

  // GIF counts hundredths of a second, and players slow frames shorter than two of them down to ten: faster clips lose
  // frames.
  void write_gif_frames() {
    Palette palette(frames_);
    std::int64_t last = -2;
    for (std::int64_t f = 0; f < frames_.frames; ++f) {
      const auto stamp = std::llround(static_cast<double>(f) * 100 / frames_.fps);
      if (stamp - last < 2) continue;
      const FramePtr picture = new_picture();
      palette.map(rgb(f), frames_.height, frames_.width, picture->data[0], picture->linesize[0]);
      std::memcpy(picture->data[1], palette.colours().data(), sizeof palette.colours());
      picture->pts = last = stamp;
      picture->pkt_duration = std::max(2ll, std::llround(static_cast<double>(f + 1) * 100 / frames_.fps) - stamp);
      encode(picture.get());
    }
  }

  void encode(const AVFrame* picture) {
    require(avcodec_send_frame(encoder_.get(), picture), "cannot be coded");
    const PacketPtr packet(av_packet_alloc());
    if (!packet) throw std::bad_alloc();
    for (;;) {
      const int code = avcodec_receive_packet(encoder_.get(), packet.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
      require(code, "cannot be coded");
      if (packet->duration == 0 && !format_.gif) packet->duration = 1;  // else the last frame lasts no time
      packet->stream_index = stream_->index;
      av_packet_rescale_ts(packet.get(), encoder_->time_base, stream_->time_base);
      require(av_interleaved_write_frame(output_.get(), packet.get()), "cannot be written");
      require(output_->pb->error, "cannot be written");
    }
  }

  const std::string& path_;
  const Format& format_;
  const Frames& frames_;
  AtomicFile file_;  // outlives the output that writes to its temporary name
  OutputPtr output_;
  CodecPtr encoder_;
  AVStream* stream_ = nullptr;
  bool rec709_ = false;
};

std::string frame_name(std::int64_t f) {
  char name[32];
  std::snprintf(name, sizeof name, "frame_%05lld.png", static_cast<long long>(f));
  return name;
}

void write_folder(const std::string& path, const Frames& frames) {
  make_directories(path);
  for (std::int64_t f = 0; f < frames.frames; ++f) {
    write_png((std::filesystem::path(path) / frame_name(f)).string(), frames.width, frames.height,
              frames.rgb.data() + f * frames.height * frames.width * 3);
  }
  // What a longer clip left there would be taken for the end of this one.
  std::error_code error;
  for (std::int64_t f = frames.frames; std::filesystem::remove(std::filesystem::path(path) / frame_name(f), error);
       ++f) {
  }
}

}  // namespace

void write_video(const std::string& path, const Frames& frames, double quality) {
  check(frames, quality);
  std::string extension = std::filesystem::path(path).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  if (path.empty())
    throw_argument("path", "(empty)", "names no file", "name a .mp4, .webm, .gif or .mkv file, or a folder");
  if (extension.empty()) return write_folder(path, frames);
  for (const Format& format : formats) {
    if (extension != format.extension) continue;
    const Quiet quiet;
    Writer(path, format, frames, quality).run();
    return;
  }
  throw_argument("path", path, "ends in an unknown extension",
                 "use .mp4, .webm, .gif, .mkv, or no extension for a folder of PNG frames");
}

}  // namespace vmoba::io
