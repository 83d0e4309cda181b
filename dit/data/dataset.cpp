// SPDX-License-Identifier: Apache-2.0
// Clips as latents, divided into training and validation, and the crops of a batch.
//
// Held out: of rendered clips the last ones; of a file the end of its time, at least a crop long and at least held_out
// of it. A file too short for a crop on both sides of the cut gives all its time to training. When no file is long
// enough, whole files are held out instead; a single such file serves both, and the log says so.
#include "dit/data/dataset.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <new>
#include <thread>

#include "dit/data/cache.hpp"
#include "dit/data/captions.hpp"
#include "dit/data/random.hpp"
#include "io/file.hpp"
#include "io/safetensors.hpp"
#include "io/video.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t clip_bytes = 1ll << 30;  // of pixels decoded at once; the rest of a longer file is not used

struct Clip {
  at::Tensor latents;  // float [C, T, Y, X]
  at::Tensor text;     // float [L, text_dim] or undefined
  std::string caption;
  std::int64_t train = 0;       // training uses T in [0, train)
  std::int64_t validation = 0;  // validation uses T in [validation, T)
  std::string skipped;          // why it is not used; "" when it is
  std::vector<std::string> log;
};

class Hash {
 public:
  void add(const void* bytes, std::size_t size) {
    const auto* p = static_cast<const char*>(bytes);
    std::uint64_t word = 0;
    for (; size >= sizeof word; p += sizeof word, size -= sizeof word) {
      std::memcpy(&word, p, sizeof word);
      state_ = mix(state_ ^ word) + 0x9E3779B97F4A7C15ull;
    }
    word = 0;
    std::memcpy(&word, p, size);
    state_ = mix(state_ ^ word ^ size << 56) + 0x9E3779B97F4A7C15ull;
  }
  void add(const std::string& text) { add(text.data(), text.size()); }
  void add(const at::Tensor& x) {
    if (!x.defined()) return;
    const at::Tensor values = x.contiguous();
    add(values.const_data_ptr(), static_cast<std::size_t>(values.nbytes()));
  }
  std::string hex() const {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(state_));
    return text;
  }

 private:
  std::uint64_t state_ = 0;
};

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", x);
  return text;
}

class ClipDataset final : public Dataset {
 public:
  ClipDataset(const DataOptions& options, std::vector<Clip> clips, std::int64_t skipped, std::string identity)
      : options_(options), clips_(std::move(clips)), skipped_(skipped), identity_(std::move(identity)) {
    for (std::size_t i = 0; i < clips_.size(); ++i) {
      if (clips_[i].train >= options_.crop[0]) train_.push_back(i);
      if (clips_[i].latents.size(1) - clips_[i].validation >= options_.crop[0]) validation_.push_back(i);
    }
  }

  std::int64_t clips() const override { return static_cast<std::int64_t>(clips_.size()); }
  std::int64_t skipped() const override { return skipped_; }
  std::string identity() const override { return identity_; }

  Batch batch(Split split, std::int64_t index, std::int64_t size) const override {
    if (index < 0) throw_argument("index", std::to_string(index), "is negative", "use 0, 1, ...");
    if (size < 1) throw_argument("size", std::to_string(size), "is not a batch size", "use at least 1");
    const auto [T, Y, X] = options_.crop;
    Batch out;
    out.latents = at::empty({size, clips_[0].latents.size(0), T, Y, X}, at::kFloat);
    std::vector<at::Tensor> text;
    for (std::int64_t j = 0; j < size; ++j) {
      const auto sample = static_cast<std::uint64_t>(index * size + j);
      // Validation does not depend on the seed: runs of different seeds are measured on the same crops.
      Random random = split == Split::train ? Random{options_.seed, 1, sample} : Random{0, 2, sample};
      const Clip& clip = pick(split, sample);
      const std::int64_t begin = split == Split::train ? 0 : clip.validation;
      const std::int64_t end = split == Split::train ? clip.train : clip.latents.size(1);
      const auto place = [&](std::int64_t room, std::int64_t crop) { return random.below(room - crop + 1); };
      const std::int64_t t = begin + place(end - begin, T);
      const std::int64_t y = place(clip.latents.size(2), Y);
      const std::int64_t x = place(clip.latents.size(3), X);
      out.latents[j].copy_(clip.latents.narrow(1, t, T).narrow(2, y, Y).narrow(3, x, X));
      text.push_back(clip.text.defined() ? clip.text : caption_ids(clip.caption, options_.text_length));
      out.captions.push_back(clip.caption);
    }
    (options_.text_dim > 0 ? out.text : out.text_ids) = at::stack(text);
    return out;
  }

 private:
  // Every clip once, in an order of its own for each round.
  const Clip& pick(Split split, std::uint64_t sample) const {
    const auto& list = split == Split::train ? train_ : validation_;
    const std::uint64_t n = list.size(), round = sample / n;
    std::uint64_t at = sample % n;
    if (split == Split::validation) return clips_[list[at]];
    std::vector<std::size_t> order(list);
    Random random{options_.seed, 3, round};
    for (std::size_t i = order.size(); i > 1; --i) {
      std::swap(order[i - 1], order[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
    }
    return clips_[order[at]];
  }

  DataOptions options_;
  std::vector<Clip> clips_;
  std::int64_t skipped_;
  std::string identity_;
  std::vector<std::size_t> train_, validation_;
};

void check(const DataOptions& o) {
  const auto in_range = [](const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value >= least && value <= most) return;
    throw_argument(name, std::to_string(value), "is out of range",
                   "use " + std::to_string(least) + ".." + std::to_string(most));
  };
  if (!(o.fps > 0 && o.fps <= 1000))
    throw_argument("fps", number(o.fps), "is not a frame rate", "use more than 0 and at most 1000");
  in_range("height", o.height, 1, 16384);
  in_range("width", o.width, 1, 16384);
  in_range("crop[0]", o.crop[0], 1, 1 << 20);
  in_range("rendered_clips", o.rendered_clips, 1, 1 << 20);
  in_range("threads", o.threads, 1, 256);
  in_range("text_length", o.text_length, 1, 1 << 16);
  in_range("text_dim", o.text_dim, 0, 1 << 20);
  if (!(o.held_out >= 0 && o.held_out < 1)) throw_argument("held_out", number(o.held_out), "is not a share", "use 0.1");
  if (o.directory.empty() && o.text_dim > 0) {
    throw_argument("text_dim", std::to_string(o.text_dim), "needs embeddings, which rendered clips have none of",
                   "use 0, or a folder of videos with NAME.safetensors beside each");
  }
}

// Runs f(0) .. f(n - 1) on a few threads. What one throws is thrown here once all have stopped.
void for_each_clip(std::size_t n, std::int64_t threads, const std::function<void(std::size_t)>& f) {
  std::atomic<std::size_t> next{0};
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(threads));
  const auto work = [&](std::size_t me) {
    try {
      for (std::size_t i = next++; i < n; i = next++) f(i);
    } catch (...) {
      failures[me] = std::current_exception();
      next = n;
    }
  };
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < failures.size() && i < n; ++i) others.emplace_back(work, i);
  work(0);
  for (auto& thread : others) thread.join();
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

// NAME.safetensors beside the video: one tensor [L, text_dim] (or [1, L, text_dim]) cut or padded with zeros to
// text_length.
at::Tensor read_embedding(const std::string& video, const DataOptions& options) {
  const std::string path = fs::path(video).replace_extension(".safetensors").string();
  const io::SafetensorsFile file(path);
  if (file.tensors().size() != 1)
    throw_file(path, "does not hold exactly one tensor", "keep the text embedding alone in it");
  const auto& [name, info] = *file.tensors().begin();
  auto shape = info.shape;
  if (shape.size() == 3 && shape[0] == 1) shape.erase(shape.begin());
  const bool known = info.dtype == "F32" || info.dtype == "F16" || info.dtype == "BF16";
  if (!known || shape.size() != 2 || shape[0] < 1 || shape[1] != options.text_dim) {
    throw_file(path, "does not hold a floating tensor [L, " + std::to_string(options.text_dim) + "]",
               "use embeddings of the model's text_dim");
  }
  const auto type = info.dtype == "F32" ? at::kFloat : info.dtype == "F16" ? at::kHalf : at::kBFloat16;
  at::Tensor values = at::empty(shape, type);
  std::memcpy(values.mutable_data_ptr(), file.data(name), static_cast<std::size_t>(info.end - info.begin));
  values = values.to(at::kFloat);
  if (!at::isfinite(values).all().item<bool>())
    throw_file(path, "holds values that are not finite", "make the embedding anew");
  at::Tensor out = at::zeros({options.text_length, options.text_dim}, at::kFloat);
  const std::int64_t n = std::min(options.text_length, values.size(0));
  out.narrow(0, 0, n).copy_(values.narrow(0, 0, n));
  return out;
}

struct Source {
  const DataOptions& options;
  const Tokenizer& tokenizer;
  LatentCache& cache;
  std::string transform;  // how pixels became latents; goes into the cache
};

void open_file(const Source& source, const Captions& captions, const std::string& path, Clip& clip) {
  const DataOptions& o = source.options;
  const auto log = [&](const std::string& line) { clip.log.push_back(line); };
  try {
    std::error_code error;
    CacheKey key{fs::path(path).filename().string(), 0, 0, source.transform};
    if (!io::is_utf8(key.source)) throw_file(path, "has a name that is not UTF-8", "rename it");
    key.size = fs::file_size(path, error);
    if (error) throw_file(path, "cannot be read (" + error.message() + ")", "check the file");
    const auto modified = fs::last_write_time(path, error);
    key.mtime = std::chrono::duration_cast<std::chrono::nanoseconds>(modified.time_since_epoch()).count();
    const auto [T0, Y, X] = source.tokenizer.latent_shape(1, o.height, o.width);
    if (auto cached = source.cache.find(key, source.tokenizer.channels(), Y, X)) {
      clip.latents = *cached;
    } else {
      const std::int64_t most = std::max<std::int64_t>(clip_bytes / (o.height * o.width * 3), 4 * o.crop[0]);
      io::Frames frames =
          io::read_video(path, {.fps = o.fps, .height = o.height, .width = o.width, .max_frames = most});
      if (frames.frames == most) {
        log("only the beginning is used: " + path + " is longer than " + number(static_cast<double>(most) / o.fps) +
            " s");
      }
      const std::int64_t count = (frames.frames - 1) / 4 * 4 + 1;
      const at::Tensor rgb = at::from_blob(frames.rgb.data(), {count, frames.height, frames.width, 3}, at::kByte);
      clip.latents = source.tokenizer.encode(rgb);
      source.cache.store(key, clip.latents);
    }
    const std::int64_t T = clip.latents.size(1);
    if (T < o.crop[0]) {
      clip.skipped = path + ": lasts " + number(static_cast<double>(4 * (T - 1) + 1) / o.fps) + " s at " +
                     number(o.fps) + " frames a second, shorter than a crop of " + std::to_string(o.crop[0]) +
                     " latent frames, which needs " +
                     number(std::ceil(static_cast<double>(4 * (o.crop[0] - 1) + 1) / o.fps * 100) / 100) + " s";
      return;
    }
    clip.caption = captions.of(path, log);
    if (o.text_dim > 0) clip.text = read_embedding(path, o);
    const auto share = static_cast<std::int64_t>(std::ceil(o.held_out * static_cast<double>(T)));
    const std::int64_t held = std::max(o.crop[0], share);
    const bool both = T - held >= o.crop[0];
    clip.train = both ? T - held : T;
    clip.validation = clip.train;
  } catch (const Error& error) {
    clip.skipped = error.sentence();
  } catch (const std::bad_alloc&) {
    clip.skipped = path + ": needs more memory than there is";
  }
}

void render(const Source& source, std::int64_t index, bool held_out, Clip& clip) {
  const DataOptions& o = source.options;
  const std::uint64_t seed = Random{o.seed, 4, static_cast<std::uint64_t>(index)}.bits();
  // Four latent frames more than a crop, so that crops differ in time too.
  const std::int64_t frames = 4 * (o.crop[0] + 3) + 1;
  const auto [T, Y, X] = source.tokenizer.latent_shape(frames, o.height, o.width);
  const CacheKey key{"rendered " + std::to_string(seed) + " " + std::to_string(frames), 0, 0, source.transform};
  if (auto cached = source.cache.find(key, source.tokenizer.channels(), Y, X)) {
    clip.latents = *cached;
    clip.caption = render_clip(seed, 1, 8, 8, o.fps).caption;  // the words do not depend on the size
  } else {
    const RenderedClip rendered = render_clip(seed, frames, o.height, o.width, o.fps);
    clip.caption = rendered.caption;
    clip.latents = source.tokenizer.encode(rendered.rgb);
    source.cache.store(key, clip.latents);
  }
  clip.train = held_out ? 0 : T;
  clip.validation = held_out ? 0 : T;
}

// Makes sure that both splits have something, see the top of the file.
void divide(std::vector<Clip>& clips, const DataOptions& options) {
  const auto serves = [&](bool train) {
    return std::any_of(clips.begin(), clips.end(), [&](const Clip& clip) {
      return (train ? clip.train : clip.latents.size(1) - clip.validation) >= options.crop[0];
    });
  };
  if (serves(true) && serves(false)) return;
  const auto n = static_cast<std::int64_t>(clips.size());
  if (n == 1) {
    clips[0].train = clips[0].latents.size(1);
    clips[0].validation = 0;
    if (options.log) {
      options.log(
          "the only clip is too short to hold out a part of it: validation uses the training frames; give a clip of " +
          number(std::ceil(static_cast<double>(8 * options.crop[0]) / options.fps)) + " s, or more clips");
    }
    return;
  }
  const std::int64_t held = std::clamp<std::int64_t>(std::llround(options.held_out * static_cast<double>(n)), 1, n - 1);
  for (std::int64_t i = 0; i < n; ++i) {
    Clip& clip = clips[static_cast<std::size_t>(i)];
    clip.train = i < n - held ? clip.latents.size(1) : 0;
    clip.validation = i < n - held ? clip.latents.size(1) : 0;
  }
}

}  // namespace

std::shared_ptr<Dataset> Dataset::open(const DataOptions& options, std::shared_ptr<const Tokenizer> tokenizer) {
  check(options);
  if (!tokenizer) throw_argument("tokenizer", "null", "is missing", "use make_dct_tokenizer()");
  const auto [T, Y, X] = tokenizer->latent_shape(1, options.height, options.width);
  const auto fits = [](const char* name, std::int64_t crop, std::int64_t room) {
    if (crop >= 1 && crop <= room) return;
    throw_argument(name, std::to_string(crop), "does not fit the resized clips of " + std::to_string(room) + " latents",
                   "use 1.." + std::to_string(room));
  };
  fits("crop[1]", options.crop[1], Y);
  fits("crop[2]", options.crop[2], X);

  const bool rendered = options.directory.empty();
  std::vector<std::string> files;
  if (!rendered) {
    files = io::video_files(options.directory);
    if (files.empty()) {
      throw_file(options.directory, "holds no video files",
                 "put .mp4, .webm, .mkv or .gif files there, or leave it out to train on rendered clips");
    }
  }
  LatentCache cache(options.cache, options.log);
  const std::string transform = tokenizer->identity() + " " + number(options.fps) + " fps " +
                                std::to_string(options.height) + "x" + std::to_string(options.width) +
                                (rendered ? " render 1" : " read 1");
  const Source source{options, *tokenizer, cache, transform};

  std::vector<Clip> clips(rendered ? static_cast<std::size_t>(options.rendered_clips) : files.size());
  if (rendered) {
    const auto n = options.rendered_clips;
    const std::int64_t held =
        n == 1 ? 0 : std::clamp<std::int64_t>(std::llround(options.held_out * static_cast<double>(n)), 1, n - 1);
    for_each_clip(clips.size(), options.threads, [&](std::size_t i) {
      render(source, static_cast<std::int64_t>(i), static_cast<std::int64_t>(i) >= n - held, clips[i]);
    });
  } else {
    const Captions captions(options.directory, options.log);
    for_each_clip(clips.size(), options.threads,
                  [&](std::size_t i) { open_file(source, captions, files[i], clips[i]); });
  }
  cache.write_manifest();

  // In the order of the names, however the threads finished.
  std::int64_t skipped = 0;
  for (const Clip& clip : clips) {
    if (options.log) {
      for (const auto& line : clip.log) options.log(line);
      if (!clip.skipped.empty()) options.log("skipped: " + clip.skipped);
    }
    skipped += clip.skipped.empty() ? 0 : 1;
  }
  const std::string first_reason = clips[0].skipped;
  std::erase_if(clips, [](const Clip& clip) { return !clip.skipped.empty(); });
  if (clips.empty()) {
    throw_file(options.directory,
               "holds no usable clip (" + std::to_string(skipped) + " skipped; the first: " + first_reason + ")",
               "use intact videos that last longer than a crop");
  }
  divide(clips, options);

  Hash hash;
  hash.add(transform);
  for (const std::int64_t n : options.crop) hash.add(std::to_string(n));
  for (const std::int64_t n : {static_cast<std::int64_t>(options.seed), options.text_length, options.text_dim})
    hash.add(std::to_string(n));
  for (const Clip& clip : clips) {
    hash.add(clip.caption);
    hash.add(std::to_string(clip.train) + " " + std::to_string(clip.validation));
    hash.add(clip.latents);
    hash.add(clip.text);
  }
  return std::make_shared<ClipDataset>(options, std::move(clips), skipped, hash.hex());
}

}  // namespace vmoba::dit
