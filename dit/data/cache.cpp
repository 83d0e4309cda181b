// SPDX-License-Identifier: Apache-2.0
// The latent cache: shards that describe themselves, and their manifest.
#include "dit/data/cache.hpp"

#include <ATen/ATen.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>

#include "dit/data/random.hpp"
#include "io/file.hpp"
#include "io/json.hpp"
#include "io/safetensors.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

std::map<std::string, std::string> record(const CacheKey& key) {
  return {{"source", key.source},
          {"size", std::to_string(key.size)},
          {"mtime", std::to_string(key.mtime)},
          {"transform", key.transform}};
}

}  // namespace

LatentCache::LatentCache(std::string folder, Log log) : folder_(std::move(folder)), log_(std::move(log)) {
  if (folder_.empty()) return;
  try {
    io::make_directories(folder_);
  } catch (const Error& error) {
    warn(write_warned_, "latents are kept in memory only: " + std::string(error.sentence()));
    folder_.clear();
  }
}

// One name for each source and transform, so that a stale shard is overwritten by its successor.
std::string LatentCache::shard(const CacheKey& key) const {
  std::uint64_t hash = 0;
  for (const char c : key.source + '\n' + key.transform)
    hash = mix(hash ^ static_cast<unsigned char>(c)) + 0x9E3779B97F4A7C15ull;
  char name[40];
  std::snprintf(name, sizeof name, "%016llx.safetensors", static_cast<unsigned long long>(hash));
  return name;
}

void LatentCache::warn(bool& said, const std::string& line) {
  if (!said && log_) log_(line);
  said = true;
}

std::optional<at::Tensor> LatentCache::find(const CacheKey& key, std::int64_t channels, std::int64_t y,
                                            std::int64_t x) {
  if (folder_.empty()) return std::nullopt;
  const std::string name = shard(key);
  const std::string path = (std::filesystem::path(folder_) / name).string();
  std::error_code missing;
  if (!std::filesystem::exists(path, missing)) return std::nullopt;
  try {
    const auto file = std::make_shared<io::SafetensorsFile>(path);
    if (file->metadata() != record(key)) return std::nullopt;  // stale
    const auto& info = file->info("latents");
    const auto& shape = info.shape;
    const bool fits = info.dtype == "F32" && shape.size() == 4 && shape[0] == channels && shape[1] > 0 &&
                      shape[2] == y && shape[3] == x &&
                      reinterpret_cast<std::uintptr_t>(file->data("latents")) % alignof(float) == 0;
    if (!fits) throw_file(path, "holds other latents than it should", "delete it");
    at::Tensor latents = at::from_blob(
        const_cast<void*>(file->data("latents")), shape, [file](void*) {}, at::kFloat);
    if (!at::isfinite(latents).all().item<bool>()) throw_file(path, "holds latents that are not finite", "delete it");
    const std::lock_guard lock(mutex_);
    seen_[name] = key;
    return latents;
  } catch (const Error& error) {
    const std::lock_guard lock(mutex_);
    warn(read_warned_, "cached latents are made anew: " + std::string(error.sentence()));
    return std::nullopt;
  }
}

void LatentCache::store(const CacheKey& key, const at::Tensor& latents) {
  if (folder_.empty()) return;
  const std::string name = shard(key);
  try {
    const at::Tensor values = latents.contiguous();
    io::write_safetensors((std::filesystem::path(folder_) / name).string(),
                          {{"latents", "F32", values.sizes().vec(), values.const_data_ptr()}}, record(key));
    const std::lock_guard lock(mutex_);
    seen_[name] = key;
    changed_ = true;
  } catch (const Error& error) {
    const std::lock_guard lock(mutex_);
    warn(write_warned_, "latents are kept in memory only: " + std::string(error.sentence()));
  }
}

void LatentCache::write_manifest() {
  const std::lock_guard lock(mutex_);
  if (!changed_ || folder_.empty()) return;
  const std::filesystem::path folder(folder_);
  const std::string path = (folder / "manifest.json").string();
  nlohmann::ordered_json shards = nlohmann::ordered_json::object();
  std::error_code missing;
  if (std::filesystem::exists(path, missing)) {
    try {
      const auto old = io::parse_json<nlohmann::ordered_json>(io::read_file(path));
      for (const auto& [name, entry] : old.at("shards").items()) {
        // Names from a file are not trusted to stay within the folder.
        if (std::filesystem::path(name).filename() == name && std::filesystem::exists(folder / name, missing)) {
          shards[name] = entry;
        }
      }
    } catch (const std::exception&) {  // a damaged manifest is written anew
      shards = nlohmann::ordered_json::object();
    }
  }
  for (const auto& [name, key] : seen_) {
    shards[name] = {{"source", key.source}, {"size", key.size}, {"mtime", key.mtime}, {"transform", key.transform}};
  }
  try {
    io::write_file(path, nlohmann::ordered_json{{"shards", shards}}.dump(
                             2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
                             "\n");
  } catch (const Error& error) {
    warn(write_warned_, "the manifest of the latents is not kept: " + std::string(error.sentence()));
  }
}

}  // namespace vmoba::dit
