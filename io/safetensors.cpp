// SPDX-License-Identifier: Apache-2.0
// safetensors files: the memory mapping and the writer.
#include "io/safetensors.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "io/atomic_file.hpp"
#include "io/file.hpp"
#include "io/safetensors_header.hpp"
#include "vmoba/error.hpp"

namespace vmoba::io {

struct SafetensorsFile::State {
  std::string path;
  SafetensorsHeader header;
  void* map = MAP_FAILED;
  std::uint64_t size = 0;
  ~State() {
    if (map != MAP_FAILED) ::munmap(map, size);
  }
};

// The file is mapped, not copied: whoever shortens it while it is open takes the bytes away under the reader (SIGBUS).
// Our own writer never does; it replaces files by renaming.
SafetensorsFile::SafetensorsFile(const std::string& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  const auto why = [](int error) { return " (" + std::generic_category().message(error) + ")"; };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw_file(path, "cannot be opened" + why(errno), "check the path and its permissions");
  struct stat status {};
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(fd);
    throw_file(path, "is not a regular file", "name a safetensors file");
  }
  state->size = static_cast<std::uint64_t>(status.st_size);
  if (state->size > 0) state->map = ::mmap(nullptr, state->size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  ::close(fd);
  if (state->size > 0 && state->map == MAP_FAILED) throw_file(path, "cannot be mapped" + why(error), "check the disk");
  state->header = parse_safetensors(state->size > 0 ? state->map : nullptr, state->size, path);
  state_ = state.release();
}

SafetensorsFile::~SafetensorsFile() { delete state_; }
SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

const std::string& SafetensorsFile::path() const { return state_->path; }
const std::map<std::string, TensorInfo>& SafetensorsFile::tensors() const { return state_->header.tensors; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return state_->header.metadata; }

const TensorInfo& SafetensorsFile::info(const std::string& name) const {
  const auto found = tensors().find(name);
  if (found == tensors().end()) throw_file(path(), "has no tensor '" + name + "'", "use a file that has it");
  return found->second;
}

const void* SafetensorsFile::data(const std::string& name) const {
  return static_cast<const char*>(state_->map) + state_->header.data_begin + info(name).begin;
}

void SafetensorsFile::check(const void* bytes, std::uint64_t size, const std::string& name) {
  (void)parse_safetensors(bytes, size, name);
}

void write_safetensors(const std::string& path, const std::vector<TensorData>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    auto& entry = header["__metadata__"] = nlohmann::ordered_json::object();
    for (const auto& [key, value] : metadata) {
      if (!is_utf8(key) || !is_utf8(value))
        throw_argument("metadata", key.substr(0, 40), "is not UTF-8", "write it in UTF-8");
      entry[key] = value;
    }
  }
  // Widest elements first, so that every tensor is aligned to its element size, as the format asks.
  std::vector<const TensorData*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return dtype_bytes(a->dtype) > dtype_bytes(b->dtype); });
  std::set<std::string> names;
  std::vector<std::uint64_t> sizes;
  std::uint64_t at = 0;
  for (const auto* tensor : order) {
    const std::string where = "tensors['" + tensor->name + "']";
    if (!is_utf8(tensor->name)) throw_argument("tensors", "a name", "is not UTF-8", "name it in UTF-8");
    if (tensor->name == "__metadata__" || !names.insert(tensor->name).second) {
      throw_argument("tensors", tensor->name, "comes twice or is reserved", "give every tensor a name of its own");
    }
    std::uint64_t bytes = static_cast<std::uint64_t>(dtype_bytes(tensor->dtype));
    if (bytes == 0)
      throw_argument(where + ".dtype", tensor->dtype, "is unknown", "use F32, BF16, F16, F64, I64, U8, ...");
    if (std::find(tensor->shape.begin(), tensor->shape.end(), 0) != tensor->shape.end()) bytes = 0;
    for (const std::int64_t n : tensor->shape) {
      if (n < 0 || __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(n), &bytes)) {
        throw_argument(where + ".shape", std::to_string(n), "is negative or too large",
                       "use a shape that fits in memory");
      }
    }
    if (bytes > 0 && tensor->data == nullptr)
      throw_argument(where + ".data", "null", "is missing", "point it at the elements");
    sizes.push_back(bytes);
    header[tensor->name] = {{"dtype", tensor->dtype}, {"shape", tensor->shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data begins at a multiple of 8
  unsigned char size[8];
  for (int i = 0; i < 8; ++i) size[i] = static_cast<unsigned char>(text.size() >> (8 * i));

  AtomicFile file(path);
  file.write(size, sizeof size);
  file.write(text.data(), text.size());
  for (std::size_t i = 0; i < order.size(); ++i) file.write(order[i]->data, sizes[i]);
  file.commit();
}

}  // namespace vmoba::io
