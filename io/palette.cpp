// SPDX-License-Identifier: Apache-2.0
// Variance-based median cut over a colour histogram, two rounds of k-means, ordered dither.
#include "io/palette.hpp"

#include <algorithm>

namespace vmoba::io {
namespace {

constexpr int palette_size = 255;

struct Bin {
  double count = 0, sum[3] = {};
  double mean(int c) const { return sum[c] / count; }
};

// A group of bins and the error that splitting it would fight.
struct Box {
  std::size_t begin = 0, end = 0;
  int axis = 0;
  double error = 0;  // summed squared distance to the mean along the widest axis
};

void measure(const std::vector<Bin>& bins, Box& box) {
  box.error = 0;
  for (int c = 0; c < 3; ++c) {
    double count = 0, sum = 0, squares = 0;
    for (std::size_t i = box.begin; i < box.end; ++i) {
      const double x = bins[i].mean(c);
      count += bins[i].count, sum += bins[i].count * x, squares += bins[i].count * x * x;
    }
    const double error = squares - sum * sum / count;
    if (error > box.error) box.error = error, box.axis = c;
  }
  if (box.end - box.begin < 2) box.error = 0;
}

}  // namespace

Palette::Palette(const Frames& frames) : known_(64 * 64 * 64, -1) {
  std::vector<Bin> table(32 * 32 * 32);
  const std::int64_t pixels = frames.frames * frames.height * frames.width;
  const std::int64_t step = std::max<std::int64_t>(1, pixels / 2'000'000) | 1;  // odd: does not lock on to columns
  for (std::int64_t i = 0; i < pixels; i += step) {
    const std::uint8_t* p = &frames.rgb[static_cast<std::size_t>(i) * 3];
    Bin& bin = table[static_cast<std::size_t>((p[0] >> 3) << 10 | (p[1] >> 3) << 5 | p[2] >> 3)];
    bin.count += 1;
    for (int c = 0; c < 3; ++c) bin.sum[c] += p[c];
  }
  std::vector<Bin> bins;
  for (const Bin& bin : table) {
    if (bin.count > 0) bins.push_back(bin);
  }

  std::vector<Box> boxes{{0, bins.size()}};
  measure(bins, boxes[0]);
  while (boxes.size() < palette_size) {
    const auto worst =
        std::max_element(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.error < b.error; });
    if (worst->error <= 0) break;
    Box low = *worst, high = *worst;
    const int axis = low.axis;
    double count = 0, sum = 0;
    for (std::size_t i = low.begin; i < low.end; ++i) count += bins[i].count, sum += bins[i].sum[axis];
    const double mean = sum / count;
    const auto middle = std::stable_partition(bins.begin() + static_cast<std::ptrdiff_t>(low.begin),
                                              bins.begin() + static_cast<std::ptrdiff_t>(low.end),
                                              [&](const Bin& bin) { return bin.mean(axis) <= mean; });
    low.end = high.begin = static_cast<std::size_t>(middle - bins.begin());
    if (low.begin == low.end || high.begin == high.end) {  // all means equal up to rounding
      worst->error = 0;
      continue;
    }
    measure(bins, low);
    measure(bins, high);
    *worst = low;
    boxes.push_back(high);
  }

  std::vector<Bin> centres;
  for (const Box& box : boxes) {
    Bin all;
    for (std::size_t i = box.begin; i < box.end; ++i) {
      all.count += bins[i].count;
      for (int c = 0; c < 3; ++c) all.sum[c] += bins[i].sum[c];
    }
    centres.push_back(all);
  }
  used_ = static_cast<int>(centres.size());
  for (int round = 0;; ++round) {
    for (int i = 0; i < used_; ++i) {
      for (int c = 0; c < 3; ++c) {
        if (centres[static_cast<std::size_t>(i)].count > 0) {
          channels_[static_cast<std::size_t>(c)][static_cast<std::size_t>(i)] =
              static_cast<std::int32_t>(centres[static_cast<std::size_t>(i)].mean(c) + 0.5);
        }
      }
    }
    if (round == 2) break;
    centres.assign(centres.size(), Bin{});
    for (const Bin& bin : bins) {
      Bin& to = centres[nearest(static_cast<int>(bin.mean(0) + 0.5), static_cast<int>(bin.mean(1) + 0.5),
                                static_cast<int>(bin.mean(2) + 0.5))];
      to.count += bin.count;
      for (int c = 0; c < 3; ++c) to.sum[c] += bin.sum[c];
    }
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(used_); ++i) {
    colours_[i] =
        0xFF000000u | static_cast<std::uint32_t>(channels_[0][i] << 16 | channels_[1][i] << 8 | channels_[2][i]);
  }
  for (std::size_t i = static_cast<std::size_t>(used_); i < palette_size; ++i) colours_[i] = 0xFF000000u;
  colours_[palette_size] = 0;
}

std::uint8_t Palette::nearest(int r, int g, int b) const {
  int best = 0, least = 1 << 30;
  for (int i = 0; i < used_; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const int dr = channels_[0][at] - r, dg = channels_[1][at] - g, db = channels_[2][at] - b;
    const int distance = 3 * dr * dr + 6 * dg * dg + db * db;  // the eye's weights, roughly
    if (distance < least) least = distance, best = i;
  }
  return static_cast<std::uint8_t>(best);
}

void Palette::map(const std::uint8_t* rgb, std::int64_t height, std::int64_t width, std::uint8_t* indices,
                  std::int64_t stride) {
  const auto bayer = [](std::int64_t x, std::int64_t y) {  // 0..63, the bits of x^y and y interleaved
    int value = 0;
    for (int bit = 0; bit < 3; ++bit) {
      const int yb = static_cast<int>(y >> bit & 1), xb = static_cast<int>((x ^ y) >> bit & 1);
      value |= (xb << 1 | yb) << (2 * (2 - bit));
    }
    return value;
  };
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      const std::uint8_t* p = rgb + (y * width + x) * 3;
      // +-8 of 255: about half the distance between neighbouring palette colours of a natural clip.
      const int offset = bayer(x & 7, y & 7) / 4 - 8;
      int v[3];
      for (int c = 0; c < 3; ++c) v[c] = std::clamp(p[c] + offset, 0, 255) >> 2;
      std::int16_t& known = known_[static_cast<std::size_t>(v[0] << 12 | v[1] << 6 | v[2])];
      if (known < 0) known = nearest(v[0] << 2 | v[0] >> 4, v[1] << 2 | v[1] >> 4, v[2] << 2 | v[2] >> 4);
      indices[y * stride + x] = static_cast<std::uint8_t>(known);
    }
  }
}

}  // namespace vmoba::io
