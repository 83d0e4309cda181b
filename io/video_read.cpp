// SPDX-License-Identifier: Apache-2.0
// Reading video files through FFmpeg; the file is taken to be hostile.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <system_error>

#include "io/ffmpeg.hpp"
#include "io/pixels.hpp"
#include "io/video.hpp"
#include "vmoba/error.hpp"

extern "C" {
#include <libavutil/display.h>
}

namespace vmoba::io {
namespace {

constexpr std::uint64_t memory_limit = 4ull << 30;  // bytes of RGB kept
constexpr std::uint64_t pixel_budget = 1ull
                                       << 39;  // decoded per file: over an hour of 1080p, and an end to decoding bombs
constexpr std::int64_t packet_budget = 20'000'000;
constexpr double longest_gap = 60;  // seconds between two frames; beyond it a timestamp lies
constexpr const char* another = "use an intact video file";

// An open container and its best video stream. Reads by descriptor, so no path is ever taken for a protocol, and opens
// nothing else: playlists and references to other files or hosts are refused.
class Input {
 public:
  explicit Input(const std::string& path) : path_(path) {
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0) {
      throw_file(path, "cannot be opened (" + std::generic_category().message(errno) + ")",
                 "check the path and its permissions");
    }
    try {
      open();
    } catch (...) {
      close();
      throw;
    }
  }
  ~Input() { close(); }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  AVFormatContext* context() const { return format_; }
  AVStream* stream() const { return format_->streams[stream_]; }
  int stream_index() const { return stream_; }

  double rate() const {
    const AVRational rate = av_guess_frame_rate(format_, stream(), nullptr);
    const double value = rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 25;
    return value > 0.01 && value <= 1000 ? value : 25;
  }
  double seconds() const {
    if (stream()->duration != AV_NOPTS_VALUE && stream()->duration > 0) {
      return static_cast<double>(stream()->duration) * av_q2d(stream()->time_base);
    }
    return format_->duration > 0 ? static_cast<double>(format_->duration) / AV_TIME_BASE : 0;
  }
  // Clockwise quarter turns that make the picture upright.
  int quarter_turns() const {
    std::size_t size = 0;
    const auto* matrix =
        reinterpret_cast<const std::int32_t*>(av_stream_get_side_data(stream(), AV_PKT_DATA_DISPLAYMATRIX, &size));
    if (matrix == nullptr || size < 9 * sizeof(std::int32_t)) return 0;
    const double counter_clockwise = av_display_rotation_get(matrix);
    if (!std::isfinite(counter_clockwise)) return 0;
    return static_cast<int>(std::lround(-counter_clockwise / 90)) & 3;
  }

 private:
  static int read(void* self, std::uint8_t* buffer, int size) {
    auto& input = *static_cast<Input*>(self);
    // A demuxer that seeks back and forth for ever comes to an end here.
    if (input.bytes_left_ < static_cast<std::uint64_t>(size)) return AVERROR_EOF;
    for (;;) {
      const ssize_t n = ::read(input.descriptor_, buffer, static_cast<std::size_t>(size));
      if (n > 0) input.bytes_left_ -= static_cast<std::uint64_t>(n);
      if (n >= 0) return n == 0 ? AVERROR_EOF : static_cast<int>(n);
      if (errno != EINTR) return AVERROR(errno);
    }
  }
  static std::int64_t seek(void* self, std::int64_t offset, int whence) {
    auto& input = *static_cast<Input*>(self);
    if (whence & AVSEEK_SIZE) return input.size_;
    const off_t at = ::lseek(input.descriptor_, offset, whence & ~AVSEEK_FORCE);
    return at >= 0 ? at : AVERROR(errno);
  }
  static int refuse_open(AVFormatContext*, AVIOContext**, const char*, int, AVDictionary**) { return AVERROR(EACCES); }

  void open() {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
      throw_file(path_, S_ISDIR(status.st_mode) ? "is a folder, not a video file" : "is not a regular file",
                 "name a video file");
    }
    size_ = status.st_size;
    bytes_left_ = static_cast<std::uint64_t>(size_) * 64 + (64ull << 20);

    constexpr int buffer_size = 1 << 16;
    auto* buffer = static_cast<std::uint8_t*>(av_malloc(buffer_size));
    if (buffer != nullptr) io_ = avio_alloc_context(buffer, buffer_size, 0, this, &read, nullptr, &seek);
    if (io_ == nullptr) av_free(buffer);
    format_ = avformat_alloc_context();
    if (io_ == nullptr || format_ == nullptr) throw std::bad_alloc();
    format_->pb = io_;
    format_->flags |= AVFMT_FLAG_CUSTOM_IO;
    format_->io_open = &refuse_open;
    format_->protocol_whitelist = av_strdup("none");
    int code = avformat_open_input(&format_, "", nullptr, nullptr);  // frees and nulls format_ when it fails
    if (code < 0) throw_file(path_, "is not a video that FFmpeg can open (" + ffmpeg_words(code) + ")", another);

    std::vector<AVDictionary*> options(format_->nb_streams, nullptr);
    for (auto& option : options) av_dict_set_int(&option, "max_pixels", size_limit * size_limit, 0);
    code = avformat_find_stream_info(format_, options.data());
    for (auto& option : options) av_dict_free(&option);
    if (code < 0) throw_file(path_, "has no readable stream (" + ffmpeg_words(code) + ")", another);
    stream_ = av_find_best_stream(format_, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
    if (stream_ < 0 || (stream()->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0) {
      throw_file(path_, "holds no video stream", another);
    }
    for (unsigned i = 0; i < format_->nb_streams; ++i) {
      if (static_cast<int>(i) != stream_) format_->streams[i]->discard = AVDISCARD_ALL;
    }
    const auto* parameters = stream()->codecpar;
    if (parameters->width < 0 || parameters->height < 0 || parameters->width > size_limit ||
        parameters->height > size_limit) {
      throw_file(path_,
                 "has frames of " + std::to_string(parameters->width) + " x " + std::to_string(parameters->height) +
                     " pixels, more than 16384 a side",
                 "use a smaller video");
    }
  }
  void close() {
    avformat_close_input(&format_);
    if (io_ != nullptr) {
      av_freep(&io_->buffer);
      avio_context_free(&io_);
    }
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
  }

  std::string path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
  std::uint64_t bytes_left_ = 0;
  AVIOContext* io_ = nullptr;
  AVFormatContext* format_ = nullptr;
  int stream_ = -1;
};

CodecPtr open_decoder(const Input& input, const std::string& path) {
  const auto* parameters = input.stream()->codecpar;
  const AVCodec* codec = avcodec_find_decoder(parameters->codec_id);
  const std::string name = avcodec_get_name(parameters->codec_id);
  if (codec == nullptr) {
    throw_file(path, "is coded as " + name + ", which this FFmpeg cannot decode", "convert it to H.264 or VP9");
  }
  CodecPtr decoder(avcodec_alloc_context3(codec));
  if (!decoder) throw std::bad_alloc();
  int code = avcodec_parameters_to_context(decoder.get(), parameters);
  decoder->pkt_timebase = input.stream()->time_base;
  decoder->max_pixels = size_limit * size_limit;
  decoder->thread_count = 1;  // files are decoded side by side instead; and errors come at the packet that has them
  if (code >= 0) code = avcodec_open2(decoder.get(), codec, nullptr);
  if (code < 0) throw_file(path, "cannot be decoded as " + name + " (" + ffmpeg_words(code) + ")", another);
  return decoder;
}

// Takes frames in order of time and keeps those the caller wants.
class Collector {
 public:
  Collector(const ReadOptions& options, double file_rate, int turns, double first_second)
      : options_(options), file_rate_(file_rate), to_rgb_(turns), end_(first_second), next_(options.start) {
    out_.fps = options.fps > 0 ? options.fps : file_rate;
  }

  // time: seconds from the start of the stream, or NaN where the file does not say.
  void take(FramePtr frame, double time) {
    if (!started_) {
      time = std::isfinite(time) ? std::max(time, 0.0) : end_;
    } else {
      time += shift_;
      if (!(time > time_) || time > time_ + longest_gap) {
        const double repaired = time_ + 1 / file_rate_;
        if (std::isfinite(time)) shift_ += repaired - time;
        time = repaired;
      }
    }
    if (options_.fps > 0) {
      // The frame before stands until half way to this one.
      if (started_) emit_until(0.5 * (time_ + time));
    } else if (time >= options_.start - 0.5 / file_rate_) {
      held_ = std::move(frame);
      emit();
    }
    started_ = true;
    time_ = time;
    if (options_.fps > 0) {
      held_ = std::move(frame);
      fresh_ = true;
    }
  }
  void finish() {
    // The last frame stands for its own duration; the microsecond keeps rounding from adding a frame.
    if (started_ && options_.fps > 0) emit_until(time_ + 1 / file_rate_ - 1e-6);
  }
  bool full() const { return full_ || failed_ || (options_.max_frames > 0 && out_.frames >= options_.max_frames); }
  bool failed() const { return failed_; }
  double last_time() const { return time_; }
  Frames result() && { return std::move(out_); }
  bool empty() const { return out_.frames == 0; }

 private:
  void emit_until(double boundary) {
    while (!full() && next_ < boundary) {
      emit();
      next_ = options_.start + static_cast<double>(out_.frames) / options_.fps;
    }
  }
  void emit() {
    if (full()) return;
    if (out_.frames == 0) {
      std::tie(out_.height, out_.width) = to_rgb_.size_of(*held_, options_.height, options_.width);
      frame_bytes_ = static_cast<std::uint64_t>(out_.height) * static_cast<std::uint64_t>(out_.width) * 3;
    }
    if ((static_cast<std::uint64_t>(out_.frames) + 1) * frame_bytes_ > memory_limit) {
      full_ = true;
      return;
    }
    if (options_.fps > 0 && !fresh_) {  // the same frame again
      const std::size_t size = out_.rgb.size();
      out_.rgb.resize(size + frame_bytes_);
      std::copy_n(out_.rgb.begin() + static_cast<std::ptrdiff_t>(size - frame_bytes_), frame_bytes_,
                  out_.rgb.begin() + static_cast<std::ptrdiff_t>(size));
    } else if (!to_rgb_.append(*held_, out_.height, out_.width, out_.rgb)) {
      failed_ = true;
      return;
    }
    fresh_ = false;
    ++out_.frames;
  }

  const ReadOptions& options_;
  double file_rate_;
  ToRgb to_rgb_;
  Frames out_;
  std::uint64_t frame_bytes_ = 0;
  FramePtr held_;
  bool started_ = false, fresh_ = false, full_ = false, failed_ = false;
  double time_ = 0, shift_ = 0;
  double end_;   // time of a first frame without one
  double next_;  // time of the next frame to emit
};

void check(const ReadOptions& options) {
  const auto side = [](const char* name, std::int64_t value) {
    if (value < 0 || value > size_limit) {
      throw_argument(name, std::to_string(value), "is not a size in pixels", "use 1..16384, or 0 for the file's own");
    }
  };
  side("options.height", options.height);
  side("options.width", options.width);
  if (!(options.fps >= 0 && options.fps <= 1000)) {
    throw_argument("options.fps", std::to_string(options.fps), "is not a frame rate",
                   "use a rate up to 1000, or 0 for the file's own");
  }
  if (options.max_frames < 0) {
    throw_argument("options.max_frames", std::to_string(options.max_frames), "is negative", "use 0 for all frames");
  }
  if (!(options.start >= 0 && options.start < 1e9)) {
    throw_argument("options.start", std::to_string(options.start), "is not a time in seconds",
                   "use 0 for the beginning");
  }
}

}  // namespace

VideoInfo probe_video(const std::string& path) {
  const Quiet quiet;
  const Input input(path);
  const auto* parameters = input.stream()->codecpar;
  if (parameters->width <= 0 || parameters->height <= 0)
    throw_file(path, "does not say how large its frames are", another);
  VideoInfo info;
  info.width = parameters->width;
  info.height = parameters->height;
  if (input.quarter_turns() % 2 != 0) std::swap(info.width, info.height);
  info.fps = input.rate();
  info.seconds = input.seconds();
  info.codec = avcodec_get_name(parameters->codec_id);
  info.container = input.context()->iformat->name;
  return info;
}

Frames read_video(const std::string& path, const ReadOptions& options, bool strict) {
  check(options);
  const Quiet quiet;
  Input input(path);
  const CodecPtr decoder = open_decoder(input, path);
  AVFormatContext* const format = input.context();
  AVStream* const stream = input.stream();
  const double tick = av_q2d(stream->time_base);
  const double origin = stream->start_time != AV_NOPTS_VALUE ? static_cast<double>(stream->start_time) * tick : 0;

  double first_second = 0;
  if (options.start > 10) {
    // Decoding from the key frame before; where a container cannot seek, from the beginning.
    const auto target = static_cast<std::int64_t>((origin + options.start - 1) / tick);
    if (av_seek_frame(format, input.stream_index(), target, AVSEEK_FLAG_BACKWARD) >= 0) first_second = options.start;
  }

  Collector collector(options, input.rate(), input.quarter_turns(), first_second);
  const PacketPtr packet(av_packet_alloc());
  if (!packet) throw std::bad_alloc();
  std::uint64_t pixels = 0;
  std::int64_t packets = 0;
  bool got_frame = false, damaged = false, over = false;
  while (!over && !collector.full()) {
    int code = av_read_frame(format, packet.get());
    const bool last = code < 0;
    if (last && code != AVERROR_EOF) damaged = true;
    if (!last && packet->stream_index != input.stream_index()) {
      av_packet_unref(packet.get());
      over = ++packets > packet_budget;
      continue;
    }
    if (!last && (packet->flags & AV_PKT_FLAG_CORRUPT) != 0) damaged = true;
    code = avcodec_send_packet(decoder.get(), last ? nullptr : packet.get());
    av_packet_unref(packet.get());
    // Undecodable packets before the first frame are common (a stream cut between key frames); later ones are a break.
    if (code < 0 && code != AVERROR_EOF) {
      damaged = true;
      if (got_frame) over = true;
    }
    for (;;) {
      FramePtr frame(av_frame_alloc());
      if (!frame) throw std::bad_alloc();
      code = avcodec_receive_frame(decoder.get(), frame.get());
      if (code < 0) break;
      if (frame->width < 1 || frame->height < 1 || frame->width > size_limit || frame->height > size_limit) {
        code = AVERROR_INVALIDDATA;
        break;
      }
      if (frame->decode_error_flags != 0 || (frame->flags & AV_FRAME_FLAG_CORRUPT) != 0) {
        damaged = true;
        if (got_frame) over = true;
        if (over) break;
      }
      pixels += static_cast<std::uint64_t>(frame->width) * static_cast<std::uint64_t>(frame->height);
      if (pixels > pixel_budget) over = true;
      const std::int64_t stamp = frame->best_effort_timestamp;
      const double time = stamp != AV_NOPTS_VALUE ? static_cast<double>(stamp) * tick - origin : std::nan("");
      got_frame = true;
      collector.take(std::move(frame), time);
      if (collector.full()) break;
    }
    if (code < 0 && code != AVERROR(EAGAIN) && code != AVERROR_EOF) {
      damaged = true;
      if (got_frame) over = true;
    }
    over = over || last || ++packets > packet_budget;
  }
  if (!collector.full()) {
    collector.finish();
    // Many containers end without a word where the bytes stop: then only the duration in their header tells.
    if (input.seconds() > collector.last_time() + std::max(1.0, 4 / input.rate()) && got_frame) damaged = true;
  }
  if (strict && (damaged || collector.failed())) {
    throw_file(path,
               "is truncated or corrupt after " + std::to_string(std::move(collector).result().frames) + " frames",
               another);
  }
  if (collector.empty()) {
    if (got_frame && !collector.failed()) {
      throw_file(path, "has no frame at or after " + std::to_string(options.start) + " s", "start earlier");
    }
    throw_file(path,
               got_frame ? "has frames in a pixel format that cannot be converted" : "has no frame that can be decoded",
               another);
  }
  return std::move(collector).result();
}

std::vector<std::string> video_files(const std::string& directory) {
  static constexpr const char* extensions[] = {".mp4",  ".m4v", ".mov", ".webm", ".mkv", ".gif", ".avi", ".mpg",
                                               ".mpeg", ".ts",  ".ogv", ".wmv",  ".flv", ".y4m", ".3gp"};
  std::error_code error;
  std::filesystem::directory_iterator at(directory, error), end;
  if (error) throw_file(directory, "cannot be listed (" + error.message() + ")", "name a folder of video files");
  std::vector<std::string> files;
  for (; !error && at != end; at.increment(error)) {
    std::string extension = at->path().extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    std::error_code ignored;
    if (std::find(std::begin(extensions), std::end(extensions), extension) != std::end(extensions) &&
        !at->is_directory(ignored)) {
      files.push_back(at->path().string());
    }
  }
  if (error) throw_file(directory, "cannot be listed to its end (" + error.message() + ")", "check the disk");
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace vmoba::io
