// SPDX-License-Identifier: Apache-2.0
// A file that appears whole or not at all: written under a temporary name, fsynced, renamed.
#pragma once

#include <cstdint>
#include <string>

namespace vmoba::io {

// Used by every writer of this folder. Without commit() the destructor removes the temporary file and path stays as it
// was. A symbolic link is followed (the file it names is replaced); anything that is not a regular file is refused. Not
// thread-safe; different objects may write the same path at once, and the last commit wins.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);  // throws vmoba::Error(kind file)
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& temporary() const { return temporary_; }  // for libraries that write by name
  void write(const void* bytes, std::uint64_t size);           // throws vmoba::Error(kind file)
  void commit();                                               // throws vmoba::Error(kind file)

 private:
  [[noreturn]] void fail(const char* what, int error);
  std::string path_;    // as the caller named it, for messages
  std::string target_;  // links resolved
  std::string temporary_;
  int descriptor_ = -1;
};

}  // namespace vmoba::io
