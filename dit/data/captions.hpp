// SPDX-License-Identifier: Apache-2.0
// Captions of a folder of video files.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

namespace vmoba::dit {

// For the video NAME.EXT, the first that exists of: NAME.txt beside it; the folder's captions.json (an object from file
// name or NAME to caption, or an array of {"file", "caption"}); captions.csv (file,caption; quotes as in RFC 4180, a
// header line is recognised by the word "file"). Without any, the words of NAME. What cannot be read or is not UTF-8 is
// passed over with one line of log.
class Captions {
 public:
  using Log = std::function<void(const std::string&)>;
  Captions(const std::string& directory, const Log& log);
  // Thread-safe.
  std::string of(const std::string& video, const Log& log) const;

 private:
  std::map<std::string, std::string> listed_;  // by file name or NAME
};

}  // namespace vmoba::dit
