// SPDX-License-Identifier: Apache-2.0
// Any decoded frame to packed RGB of a wanted size, on libswscale.
#include "io/pixels.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace vmoba::io {
namespace {

double sample_aspect(const AVFrame& frame) {
  const AVRational ratio = frame.sample_aspect_ratio;
  const double value = ratio.num > 0 && ratio.den > 0 ? av_q2d(ratio) : 1;
  return value > 0.1 && value < 10 ? value : 1;  // beyond that a header lies
}

int matrix_of(const AVFrame& frame) {
  switch (frame.colorspace) {
    case AVCOL_SPC_BT709:
      return SWS_CS_ITU709;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
      return SWS_CS_BT2020;
    case AVCOL_SPC_SMPTE240M:
      return SWS_CS_SMPTE240M;
    case AVCOL_SPC_FCC:
      return SWS_CS_FCC;
    case AVCOL_SPC_BT470BG:
    case AVCOL_SPC_SMPTE170M:
      return SWS_CS_ITU601;
    // Untagged: high definition is BT.709 and the rest BT.601, as players guess.
    default:
      return frame.height >= 720 || frame.width >= 1280 ? SWS_CS_ITU709 : SWS_CS_ITU601;
  }
}

}  // namespace

std::pair<std::int64_t, std::int64_t> ToRgb::size_of(const AVFrame& frame, std::int64_t height,
                                                     std::int64_t width) const {
  std::int64_t h = frame.height, w = frame.width;
  if (turns_ % 2 != 0) std::swap(h, w);
  if (height > 0 && width > 0) return {height, width};
  if (height == 0 && width == 0) return {h, w};
  const double aspect = static_cast<double>(w) / static_cast<double>(h) *
                        (turns_ % 2 != 0 ? 1 / sample_aspect(frame) : sample_aspect(frame));
  if (height == 0) return {std::clamp<std::int64_t>(std::llround(width / aspect), 1, size_limit), width};
  return {height, std::clamp<std::int64_t>(std::llround(height * aspect), 1, size_limit)};
}

bool ToRgb::append(const AVFrame& frame, std::int64_t height, std::int64_t width, std::vector<std::uint8_t>& out) {
  const int tw = static_cast<int>(turns_ % 2 != 0 ? height : width);
  const int th = static_cast<int>(turns_ % 2 != 0 ? width : height);

  // The part of the frame with the wanted aspect: cropping first keeps the scaler away from absurd intermediate sizes.
  const double sar = tw == frame.width && th == frame.height ? 1 : sample_aspect(frame);
  const double aspect = static_cast<double>(tw) / th;
  int cw = frame.width, ch = frame.height;
  if (cw * sar > ch * aspect) {
    cw = std::clamp(static_cast<int>(std::lround(ch * aspect / sar)), 1, frame.width);
  } else {
    ch = std::clamp(static_cast<int>(std::lround(cw * sar / aspect)), 1, frame.height);
  }
  const FramePtr source(av_frame_clone(&frame));
  if (!source) return false;
  source->crop_left = static_cast<std::size_t>(frame.width - cw) / 2;
  source->crop_right = static_cast<std::size_t>(frame.width - cw) - source->crop_left;
  source->crop_top = static_cast<std::size_t>(frame.height - ch) / 2;
  source->crop_bottom = static_cast<std::size_t>(frame.height - ch) - source->crop_top;
  if (av_frame_apply_cropping(source.get(), AV_FRAME_CROP_UNALIGNED) < 0) return false;

  const auto format = static_cast<AVPixelFormat>(frame.format);
  const int matrix = matrix_of(frame);
  const bool full = frame.color_range == AVCOL_RANGE_JPEG || format == AV_PIX_FMT_YUVJ420P ||
                    format == AV_PIX_FMT_YUVJ422P || format == AV_PIX_FMT_YUVJ444P || format == AV_PIX_FMT_YUVJ440P ||
                    format == AV_PIX_FMT_YUVJ411P;
  const auto key = std::make_tuple(frame.format, source->width, source->height, tw, th, matrix, full ? 1 : 0);
  if (!scaler_ || key != key_) {
    scaler_.reset();
    picture_.reset(av_frame_alloc());
    if (!picture_) return false;
    picture_->format = AV_PIX_FMT_RGB24;
    picture_->width = tw;
    picture_->height = th;
    if (av_frame_get_buffer(picture_.get(), 0) < 0) return false;
    const bool shrinks = source->width > tw || source->height > th;
    const int flags = (shrinks ? SWS_AREA : SWS_BICUBIC) | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT;
    scaler_.reset(sws_getContext(source->width, source->height, format, tw, th, AV_PIX_FMT_RGB24, flags, nullptr,
                                 nullptr, nullptr));
    if (!scaler_) return false;
    // Refused (without harm) where neither side is YUV.
    (void)sws_setColorspaceDetails(scaler_.get(), sws_getCoefficients(matrix), full ? 1 : 0,
                                   sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    key_ = key;
  }
  if (sws_scale(scaler_.get(), source->data, source->linesize, 0, source->height, picture_->data, picture_->linesize) !=
      th) {
    return false;
  }

  const std::size_t at = out.size();
  out.resize(at + static_cast<std::size_t>(height) * width * 3);
  std::uint8_t* const to = out.data() + at;
  const std::uint8_t* const from = picture_->data[0];
  const std::ptrdiff_t stride = picture_->linesize[0];
  if (turns_ == 0) {
    for (std::int64_t y = 0; y < height; ++y)
      std::memcpy(to + y * width * 3, from + y * stride, static_cast<std::size_t>(width) * 3);
    return true;
  }
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      const std::int64_t sy = turns_ == 1 ? th - 1 - x : turns_ == 2 ? th - 1 - y : x;
      const std::int64_t sx = turns_ == 1 ? y : turns_ == 2 ? tw - 1 - x : tw - 1 - y;
      std::memcpy(to + (y * width + x) * 3, from + sy * stride + sx * 3, 3);
    }
  }
  return true;
}

}  // namespace vmoba::io
