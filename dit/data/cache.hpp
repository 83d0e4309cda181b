// SPDX-License-Identifier: Apache-2.0
// Latents kept between runs: one safetensors shard a clip, and a manifest that says where each came from.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace vmoba::dit {

// Where latents come from. A shard whose own record differs in any of them is stale.
struct CacheKey {
  std::string source;      // file name, or what was rendered
  std::uint64_t size = 0;  // bytes of the file
  std::int64_t mtime = 0;  // nanoseconds
  std::string transform;   // tokenizer, rate, size of frames, version of the reader
};

// A cache never fails: what cannot be read counts as missing, what cannot be written is not kept, and the first time
// each happens the log gets a line. Thread-safe. Programs may share a folder: shards are replaced whole, by renaming.
class LatentCache {
 public:
  using Log = std::function<void(const std::string&)>;
  LatentCache(std::string folder, Log log);  // folder "": keeps nothing
  // Latents float [C, T, Y, X] of that shape but for T, if there; a view of the mapped file.
  std::optional<at::Tensor> find(const CacheKey& key, std::int64_t channels, std::int64_t y, std::int64_t x);
  void store(const CacheKey& key, const at::Tensor& latents);
  void write_manifest();  // manifest.json: what find and store saw, beside what other transforms left there

 private:
  std::string shard(const CacheKey& key) const;
  void warn(bool& said, const std::string& line);
  std::string folder_;
  Log log_;
  std::mutex mutex_;
  std::map<std::string, CacheKey> seen_;  // by shard name
  bool read_warned_ = false, write_warned_ = false, changed_ = false;
};

}  // namespace vmoba::dit
