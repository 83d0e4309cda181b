// SPDX-License-Identifier: Apache-2.0
// safetensors files: u64 little-endian header size, JSON header, data. Every file is treated as hostile.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace vmoba::io {

struct TensorInfo {
  std::string dtype;                 // "F32", "BF16", "F16", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL"
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes within the data section
};
std::int64_t dtype_bytes(const std::string& dtype);  // 0 when unknown

// A file opened for reading; memory-mapped. The whole header is checked at construction: size cap (100 MB), JSON, dtypes, shapes
// (no overflow), ranges inside the file, equal to dtype x shape, no overlap, no holes, no duplicate names.
// Throws vmoba::Error(kind file) naming the path. Movable; reads are thread-safe.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  const std::string& path() const;
  const std::map<std::string, TensorInfo>& tensors() const;
  const std::map<std::string, std::string>& metadata() const;
  const TensorInfo& info(const std::string& name) const;  // throws naming the tensor when missing
  const void* data(const std::string& name) const;        // into the mapping; unaligned; valid while the file lives
  // The same checks on bytes in memory (fuzzing, tests).
  static void check(const void* bytes, std::uint64_t size, const std::string& name);

 private:
  struct State;
  State* state_ = nullptr;
};

struct TensorData {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;  // contiguous, dtype_bytes x product of shape
};
// Written to a temporary name beside path, fsynced, renamed over path: a reader sees the old file or the new one.
// Throws vmoba::Error(kind file), path untouched, when anything fails (no space, no permission).
void write_safetensors(const std::string& path, const std::vector<TensorData>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace vmoba::io
