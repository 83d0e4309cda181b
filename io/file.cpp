// SPDX-License-Identifier: Apache-2.0
// Whole small files, atomic writing, UTF-8.
#include "io/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "io/atomic_file.hpp"
#include "vmoba/error.hpp"

namespace vmoba::io {
namespace {

std::string words(int error) { return std::generic_category().message(error); }

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::string read_file(const std::string& path, std::uint64_t limit) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) throw_file(path, "cannot be opened (" + words(errno) + ")", "check the path and its permissions");
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) throw_file(path, "cannot be examined (" + words(errno) + ")", "check the disk");
  if (!S_ISREG(status.st_mode)) throw_file(path, "is not a regular file", "name a regular file");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > limit) {
    throw_file(path, "has " + std::to_string(size) + " bytes, more than the " + std::to_string(limit) + " allowed here",
               "use a smaller file");
  }
  std::string bytes(static_cast<std::size_t>(size), '\0');
  std::size_t got = 0;
  while (got < bytes.size()) {
    const ssize_t n = ::read(file.fd, bytes.data() + got, bytes.size() - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_file(path, "cannot be read (" + words(errno) + ")", "check the disk");
    if (n == 0) break;  // it shrank meanwhile: what is there is the file
    got += static_cast<std::size_t>(n);
  }
  bytes.resize(got);
  return bytes;
}

void write_file(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  // Some libraries report an existing folder behind a trailing slash as an error: only the result counts.
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return;
  throw_file(path, "cannot be made a folder (" + (error ? error.message() : "something else has that name") + ")",
             "choose a folder that can be written");
}

bool is_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = p + text.size();
  while (p < end) {
    const unsigned char c = *p++;
    if (c < 0x80) continue;
    int more = 0;
    std::uint32_t code = 0, least = 0;
    if ((c & 0xE0) == 0xC0) {
      more = 1, code = c & 0x1Fu, least = 0x80;
    } else if ((c & 0xF0) == 0xE0) {
      more = 2, code = c & 0x0Fu, least = 0x800;
    } else if ((c & 0xF8) == 0xF0) {
      more = 3, code = c & 0x07u, least = 0x10000;
    } else {
      return false;
    }
    if (end - p < more) return false;
    for (; more > 0; --more) {
      if ((*p & 0xC0) != 0x80) return false;
      code = code << 6 | (*p++ & 0x3Fu);
    }
    // Overlong forms, surrogates and codes beyond Unicode are not UTF-8.
    if (code < least || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
  }
  return true;
}

std::string without_byte_order_mark(std::string text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  return text;
}

AtomicFile::AtomicFile(const std::string& path) : path_(path), target_(path) {
  if (path.empty()) throw_file("(empty path)", "is not a file name", "name a file to write");
  struct stat status {};
  if (::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode)) {
    std::error_code error;
    const auto resolved = std::filesystem::weakly_canonical(path, error);
    if (!error) target_ = resolved.string();
  }
  if (::stat(target_.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw_file(path, S_ISDIR(status.st_mode) ? "is a folder" : "is not a regular file", "name a file to write");
  }
  // The process id keeps programs apart, the counter the threads of this one; O_EXCL catches what is left.
  static std::atomic<std::uint64_t> counter{0};
  for (int attempt = 0; attempt < 100 && descriptor_ < 0; ++attempt) {
    temporary_ = target_ + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter.fetch_add(1));
    descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) {
    const int error = errno;
    temporary_.clear();
    throw_file(path_, "cannot be written (" + words(error) + ")", "choose a folder that exists and can be written");
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* bytes, std::uint64_t size) {
  const auto* p = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t n = ::write(descriptor_, p, static_cast<std::size_t>(std::min<std::uint64_t>(size, 1u << 30)));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("cannot be written", n == 0 ? ENOSPC : errno);
    p += n;
    size -= static_cast<std::uint64_t>(n);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail("cannot be written to the disk", errno);
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0) fail("cannot be closed", errno);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("cannot be replaced", errno);
  temporary_.clear();
  // The new name survives a power cut only once its folder is on the disk. Some file systems refuse: then nothing more
  // can be done.
  const Descriptor folder{::open(parent_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.fd >= 0) (void)::fsync(folder.fd);
}

void AtomicFile::fail(const char* what, int error) {
  throw_file(path_, std::string(what) + " (" + words(error) + ")",
             error == ENOSPC || error == EDQUOT || error == EFBIG ? "free some space or choose another disk"
                                                                  : "check the folder and the disk");
}

}  // namespace vmoba::io
