// SPDX-License-Identifier: Apache-2.0
// A differential case: one attention problem, its data, poison, layout and threads, all decoded from bytes, so that a
// fuzzer can drive it and a kept seed is a few dozen bytes. What the bytes mean may not change: kept seeds hang on it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "vmoba/vmoba.hpp"

namespace vmoba::fuzz {

enum class Data : std::uint8_t {
  normal,      // of variance 1
  integers,    // small ones: gates and logits tie all the time
  equal_keys,  // every key the same: every gate and logit of a row ties
  smooth,      // a slow wave over the rows, as neighbouring tokens of a video
  loud_rows,   // a few rows fifty times as large
  offset,      // a mean of 3: sums of one sign
  zeros,       // q and k
  sharp,       // q and k six times as large: most of a softmax is one key
};
inline constexpr const char* data_names[]{"normal",    "integers", "equal keys", "smooth",
                                          "loud rows", "offset",   "zeros",      "sharp"};

enum class Poison : std::uint8_t { none, nan, plus_infinity, minus_infinity, huge, subnormal };
inline constexpr const char* poison_names[]{"none", "NaN", "+inf", "-inf", "huge", "subnormal"};

enum class Selected : std::uint8_t {
  by_policy,    // what reference selects
  random_bits,  // any share of pairs, rows that attend nothing among them
  block_rows,   // the same, a row of the selection being a block of queries
  dense,        // no selection
  one_for_all,  // one block for every row, the others for a few rows or none
};
inline constexpr const char* selected_names[]{"by policy", "random bits", "block rows", "dense", "one block for all"};

enum class Workers : std::uint8_t { pool, in_order, backwards };  // the last two run the workers one after another
inline constexpr const char* worker_names[]{"pool", "in order", "backwards"};

struct Case {
  ProblemOptions options;
  Data data = Data::normal;
  Poison poison = Poison::none;
  std::int64_t poison_tensor = 0;  // 0..4: q, k, v, dout, dlse
  std::int64_t poison_every = 1;   // rows that hold it: each so-manieth; 0: one row
  bool poison_row = false;         // the whole row, not one element
  Selected selected = Selected::by_policy;
  std::int64_t keep = 40;  // percent of bits of a random selection
  bool with_lse = true, with_dlse = true;
  bool hide = false;  // NaN in what nobody attends: unselected keys, rows without keys
  std::int64_t threads = 1;
  Workers workers = Workers::pool;
  std::int64_t layout = 0;  // 0: contiguous; else the seed of every tensor's gaps, order and alignment
  std::uint64_t seed = 0;   // of all values
};

// What a case may cost: multiply-adds of a dense q k^T, and (query, block) pairs of the selection. Everything reference
// does with 1e7 of the first takes about half a second.
struct Limits {
  double products, pairs;
};
inline constexpr Limits small_limits{3e6, 1e5}, medium_limits{2e7, 4e5}, long_limits{8e7, 4e5}, large_limits{2e8, 2e6};

// Reads numbers off bytes; past the end everything is as low as it can be.
class Bytes {
 public:
  explicit Bytes(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  std::int64_t number(std::int64_t low, std::int64_t high) {  // both included
    const std::int64_t range = high - low + 1;
    std::int64_t value = next();
    if (range > 256) value = value << 8 | next();
    return low + value % range;
  }
  bool one_in(std::int64_t n) { return number(1, n) == n; }
  template <class Element, std::size_t Count>
  Element among(const Element (&list)[Count]) {
    return list[number(0, static_cast<std::int64_t>(Count) - 1)];
  }

 private:
  std::int64_t next() { return at_ < bytes_.size() ? bytes_[at_++] : 0; }
  std::span<const std::uint8_t> bytes_;
  std::size_t at_ = 0;
};

inline Grid decode_grid(Bytes& bytes, std::int64_t kind) {
  const std::int64_t t = bytes.number(0, 255), y = bytes.number(0, 255), x = bytes.number(0, 65535);
  switch (kind) {
    case 0:  // small on every axis
      return {1 + t % 7, 1 + y % 7, 1 + x % 7};
    case 1:  // as a video
      return {1 + t % 9, 1 + y % 14, 1 + x % 16};
    case 2: {  // a line whose length lies around the edges of words, tiles and groups of rows
      const std::int64_t edges[]{1, 4, 8, 12, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};
      return {1, 1, std::max<std::int64_t>(1, edges[t % 16] + y % 3 - 1)};
    }
    case 3:
      return {1 + t % 12, 1 + y % 20, 1 + x % 22};
    default:
      return {5 + t % 5, 12 + y % 5, 17 + x % 8};
  }
}

inline Block decode_block(Bytes& bytes, const std::vector<Grid>& grids) {
  Grid least = grids[0];
  std::int64_t tokens = least.tokens();
  for (const Grid& g : grids) {
    least = {std::min(least.t, g.t), std::min(least.y, g.y), std::min(least.x, g.x)};
    tokens = std::min(tokens, g.tokens());
  }
  const std::int64_t kind = bytes.number(0, 7), t = bytes.number(0, 255), y = bytes.number(0, 255),
                     x = bytes.number(0, 65535);
  const std::int64_t runs[]{1, 3, 4, 12, 15, 16, 17, 31, 33, 63, 64, 65, 96, 127, 128, 129, 257};
  switch (kind) {
    case 0:
      return {1 + t % least.t, full, full};
    case 1:
      return {full, 1 + y % least.y, 1 + x % least.x};
    case 2:
      return Run{1 + x % tokens};
    case 3:
      return Run{std::min(tokens, runs[t % 17])};
    default:
      return {1 + t % least.t, 1 + y % least.y, 1 + x % least.x};
  }
}

inline Policy decode_policy(Bytes& bytes, std::int64_t blocks) {
  const std::int64_t kind = bytes.number(0, 9), scope = bytes.number(0, 3), value = bytes.number(0, 255);
  const std::int64_t limits = bytes.number(0, 7), a = bytes.number(0, 255), b = bytes.number(0, 255);
  const std::int64_t floor = limits & 1 && limits & 4 ? 1 + a % (blocks + 1) : 1;
  std::optional<std::int64_t> cap;
  if (limits & 2 && limits & 4) cap = floor + b % (blocks + 1);
  if (kind == 0) return Dense{};
  if (kind <= 3) {
    const Scope scopes[]{Scope::query, Scope::head, Scope::all, Scope::head};
    return TopK{1 + value % (blocks + 1), scopes[scope], floor, cap};
  }
  const double taus[]{0.25, 0.05, 0.15, 0.5, 0.9, 1.0, 1.1, 1e-9};
  const double tau = value < 64 ? taus[value % 8] : static_cast<double>(value) / 256;
  return Threshold{tau, static_cast<Scope>(scope), floor, cap};
}

inline double products_of(const ProblemOptions& o) {
  double pairs = 0;
  const auto add = [&](const Grid& g) {
    const double rows = static_cast<double>(g.tokens() + o.text.count);
    pairs += rows * rows;
  };
  if (o.grids.empty()) {
    add(o.grid);
    pairs *= static_cast<double>(o.batch);
  }
  for (const Grid& g : o.grids) add(g);
  return pairs * static_cast<double>(o.heads * o.dim);
}
inline double pairs_of(const ProblemOptions& o) {
  double pairs = 0;
  for (const Grid& g : o.grids.empty() ? std::vector<Grid>{o.grid} : o.grids) {
    const Partition partition(g, o.block);
    pairs += static_cast<double>(partition.tokens()) * static_cast<double>(partition.blocks());
  }
  return pairs * static_cast<double>(o.heads * (o.grids.empty() ? o.batch : 1));
}

inline Case decode(std::span<const std::uint8_t> data) {
  Bytes bytes(data);
  Case c;
  ProblemOptions& o = c.options;
  // Most problems are small; a few have rows enough to be cut into pieces, few channels for it; a rare one is large.
  const std::int64_t size = bytes.number(0, 127);
  const bool is_long = size >= 122 && size < 127;
  const Limits limits = size == 127 ? large_limits : is_long ? long_limits : size > 116 ? medium_limits : small_limits;
  const std::int64_t shape = size == 127 ? 3 : is_long ? 4 : size % 3;
  const bool packed = bytes.one_in(3);
  std::int64_t batch = packed ? 1 + bytes.number(0, 3) : 1 + bytes.number(0, 7) % 4 * bytes.number(0, 1);
  std::vector<Grid> grids{decode_grid(bytes, shape)};
  for (std::int64_t b = 1; packed && b < batch; ++b) grids.push_back(decode_grid(bytes, shape));

  const std::int64_t dtypes = bytes.number(0, 3), kv_heads = bytes.number(0, 5), group = bytes.number(0, 5),
                     dim = bytes.number(0, 63);
  o.dtype = dtypes == 1 ? DType::bf16 : dtypes == 2 ? DType::f16 : DType::f32;
  o.kv_heads = kv_heads < 4 ? kv_heads + 1 : 1;
  o.heads = o.kv_heads * (group < 3 ? group + 1 : 1);
  o.dim = dim < 32 ? 8 * (dim + 1) : dim < 48 ? 64 : 128;
  if (is_long) o.dim = 8 * (1 + dim % 3);

  const std::int64_t text = bytes.number(0, 7), count = bytes.number(0, 255), padding = bytes.number(0, 255);
  if (text >= 4) {
    o.text.count = text == 7 ? count : count % 20;
    o.text.at = text % 2 ? Text::At::front : Text::At::rear;
  }
  const std::int64_t scaling = bytes.number(0, 15);
  const double scales[]{0, -0.3, 1, 1e-3, -1, 3};
  if (scaling >= 10) o.scale = scales[scaling - 10];

  c.data = static_cast<Data>(bytes.number(0, 7));
  const std::int64_t poisons[]{0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 4, 5};
  c.poison = static_cast<Poison>(bytes.among(poisons));
  c.poison_tensor = bytes.number(0, 4);
  const std::int64_t every[]{0, 0, 1, 2, 5, 40};
  c.poison_every = bytes.among(every);
  c.poison_row = bytes.one_in(2);
  c.selected = static_cast<Selected>(bytes.number(0, 4));
  c.keep = 10 * bytes.number(0, 10);
  const std::int64_t flags = bytes.number(0, 15);
  c.with_lse = (flags & 3) != 3;
  c.with_dlse = (flags & 4) == 0;
  c.hide = (flags & 8) != 0;
  c.threads = bytes.number(1, 5);
  c.workers = static_cast<Workers>(std::max<std::int64_t>(0, bytes.number(0, 3) - 1));
  c.layout = bytes.number(0, 255);
  if (c.layout < 96) c.layout = 0;
  c.seed = static_cast<std::uint64_t>(bytes.number(0, 65535));

  // Down to what reference does in time: fewer samples, heads, channels, then tokens.
  const auto apply = [&] {
    o.grids.clear(), o.grid = {}, o.batch = 1;
    if (packed) {
      o.grids = grids;
    } else {
      o.grid = grids[0], o.batch = batch;
    }
  };
  apply();
  while (products_of(o) > limits.products) {
    if (batch > 1) {
      --batch;
      if (packed) grids.pop_back();
    } else if (o.heads > o.kv_heads) {
      o.heads = o.kv_heads;
    } else if (o.kv_heads > 1) {
      o.heads = o.kv_heads = 1;
    } else if (o.text.count > 20) {
      o.text.count /= 2;
    } else if (o.dim > 64) {
      o.dim = 8 * ((o.dim / 8 + 1) / 2);
    } else {
      for (Grid& g : grids) g.x = (g.x + 1) / 2, g.y = g.x == 1 ? (g.y + 1) / 2 : g.y;
    }
    apply();
  }
  if (padding % 2 && o.text.count > 0) {
    for (std::int64_t b = 0; b < batch; ++b) o.text.valid.push_back((padding / 2 + 31 * b) % (o.text.count + 1));
  }
  o.block = decode_block(bytes, grids);
  while (pairs_of(o) > limits.pairs) {  // larger blocks
    if (const Run* run = o.block.run()) {
      o.block = Run{std::min(std::min_element(grids.begin(), grids.end(),
                                              [](const Grid& a, const Grid& b) { return a.tokens() < b.tokens(); })
                                 ->tokens(),
                             2 * run->tokens)};
      if (o.block.run()->tokens == run->tokens) break;
      continue;
    }
    Cuboid cuboid = *o.block.cuboid();
    bool grown = false;
    const auto grow = [&](std::int64_t& extent, std::int64_t Grid::*axis) {
      std::int64_t least = grids[0].*axis;
      for (const Grid& g : grids) least = std::min(least, g.*axis);
      if (grown || extent == full || extent >= least) return;
      extent = std::min(least, 2 * extent);
      grown = true;
    };
    grow(cuboid.x, &Grid::x);
    grow(cuboid.y, &Grid::y);
    grow(cuboid.t, &Grid::t);
    if (!grown) break;
    o.block = cuboid;
  }
  o.policy = decode_policy(bytes, Partition(grids[0], o.block).blocks());
  return c;
}

inline std::string hex(std::span<const std::uint8_t> bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : bytes) text += digits[byte >> 4], text += digits[byte & 15];
  return text;
}

}  // namespace vmoba::fuzz
