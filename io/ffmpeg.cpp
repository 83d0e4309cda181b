// SPDX-License-Identifier: Apache-2.0
// FFmpeg's log level and error texts.
#include "io/ffmpeg.hpp"

#include <mutex>

namespace vmoba::io {
namespace {

// The only mutable state of this library that outlives a call; it mirrors FFmpeg's own.
std::mutex quiet_mutex;
int quiet_depth = 0;
int level_before = AV_LOG_INFO;

}  // namespace

Quiet::Quiet() {
  const std::lock_guard lock(quiet_mutex);
  if (quiet_depth++ == 0) {
    level_before = av_log_get_level();
    av_log_set_level(AV_LOG_QUIET);
  }
}

Quiet::~Quiet() {
  const std::lock_guard lock(quiet_mutex);
  if (--quiet_depth == 0) av_log_set_level(level_before);
}

std::string ffmpeg_words(int error) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  return av_strerror(error, text, sizeof text) == 0 ? text : "error " + std::to_string(error);
}

}  // namespace vmoba::io
