// SPDX-License-Identifier: Apache-2.0
// attend of one bf16 item with matrix tiles: the loops of attend_inl.hpp, operands in bf16, sums and softmax in fp32.
//
//   for every key block, for every tile of its keys:                      tile_keys
//     k, v -> panels of B                                                 L2, straight from the strided input
//     for the item's rows that attend the block, in pairs of strips:      pair_rows
//       s = q k^T        q rows gathered into strips of A
//       p = 2^(c (s - m))  rounded to bf16 into strips of A; sums take p unrounded
//       out = factor out + p v
//
// The steps of three pairs overlap: while tiles multiply q and k of one pair, vectors raise the pair before it to
// weights and add the product of the one before that to out. A tile product takes 16 cycles and its share of
// the vector work (D 128: 32 weights, 32 additions) about as long. m is a reference as in attend_inl.hpp: it moves when
// a logit exceeds it by more than 8, and then factor is not 1. Rounding p to bf16 costs 2^-9 of each weight, which is
// what the naive computation rounds its weights by. Must equal reference::attend.

struct TileForward {
  const AttendItem& item;
  Scale scale;
  std::int64_t width, depth;   // D in whole 16s and 32s
  std::uint16_t* q;            // [last - first, depth], turned by the sign of the scale
  float* out;                  // [last - first, width]
  float *reference, *sum;      // [last - first]; a reference is a product, not yet scaled
  std::uint16_t *k, *v;        // panels of the current tile
  std::uint16_t* gathered[2];  // strips of A of a pair
  float* scores[2];            // [pair_rows, score_width]
  std::uint16_t* p[2];         // strips of A of a pair
  float* products;             // [pair_rows, width]
  float factors[4][pair_rows];
  float keep[tile_depth];  // of the tile's last 32 columns: 0, or -infinity beyond its keys
};

// Scores of a pair of strips to weights, 32 of a row at a step.
struct Weights {
  const float *scores, *keep;
  std::uint16_t* p;
  const std::int32_t* list;
  float *reference, *sum, *factor;
  int rows, count;
  float magnitude;
  int row, column;
  Vec subtrahend, total, top;

  void begin_row() {
    column = 0;
    total = zero();
    top = set(-__builtin_inff());
    if (row < rows) subtrahend = set(reference[list[row]]);
  }
  std::uint16_t* target() const { return p + row / 16 * (tile_keys / 32 * tile_size) + row % 16 * 32; }
  [[gnu::always_inline]] void raise_32() {
    constexpr int n = 32 / lanes;
    const float* s = scores + row * score_width + column;
    Vec x[n];
    for (int i = 0; i < n; ++i) x[i] = mul(sub(load(s + i * lanes), subtrahend), set(magnitude));
    if (column + 32 > count) {  // the mask last: scale may be 0
      for (int i = 0; i < n; ++i) x[i] = add(x[i], load(keep + i * lanes));
    }
    for (int i = 0; i < n; ++i) {
      top = max(top, x[i]);
      x[i] = weight(x[i]);
      total = add(total, x[i]);
    }
    round_32(target() + column / 32 * tile_size, x);
    column += 32;
  }
  // The row once more, with its own greatest logit as the reference.
  [[gnu::noinline]] static void move_reference(Weights w) {
    const float* s = w.scores + w.row * score_width;
    const int last = (w.count - 1) / 32 * 32;
    Vec greatest = set(-__builtin_inff());
    for (int j = 0; j < last; j += lanes) greatest = max(greatest, load(s + j));
    for (int j = 0; j < 32; j += lanes) greatest = max(greatest, add(load(s + last + j), load(w.keep + j)));
    const std::int32_t at = w.list[w.row];
    float peak = reduce_max(greatest);
    if (peak < lowest) peak = lowest;
    float factor = 1.0f;
    if (w.sum[at] != 0.0f) {
      float first[lanes];
      store(first, exp2(set((w.reference[at] - peak) * w.magnitude)));
      factor = first[0];
    }
    w.reference[at] = peak;
    w.factor[w.row] = factor;
    w.begin_row();
    while (w.column < w.count) w.raise_32();
    w.sum[at] = w.sum[at] * factor + reduce_add(w.total);
  }
  [[gnu::always_inline]] void step() {
    if (row >= rows) return;
    raise_32();
    if (column < count) return;
    if (!(reduce_max(top) <= 8.0f)) {
      move_reference(*this);
    } else {
      factor[row] = 1.0f;
      sum[list[row]] += reduce_add(total);
    }
    ++row;
    begin_row();
  }
};

// out = factor out + products, 64 columns of a row at a step.
struct Additions {
  const float *products, *factor;
  const std::int32_t* list;
  float* out;
  std::int64_t width;
  int rows, row;
  std::int64_t column;

  [[gnu::always_inline]] void step() {
    if (row >= rows) return;
    const Vec f = set(factor[row]);
    const float* from = products + row * width + column;
    float* to = out + list[row] * width + column;
    if (column + 64 <= width) {
      for (int i = 0; i < 64; i += lanes) store(to + i, fma(load(to + i), f, load(from + i)));
      column += 64;
    } else {
      for (int i = 0; column + i < width; i += lanes) store(to + i, fma(load(to + i), f, load(from + i)));
      column = width;
    }
    if (column == width) {
      column = 0;
      ++row;
    }
  }
};

struct WeightsAndAdditions {
  Weights& weights;
  Additions& additions;
  [[gnu::always_inline]] void step() {
    weights.step();
    additions.step();
  }
};

// The rows of a list against one tile of keys.
inline void attend_list(TileForward& f, Tiles& tiles, const KeyTile& tile, const std::int32_t* list,
                        std::int64_t count) {
  const std::int64_t pairs = (count + pair_rows - 1) / pair_rows, strip = 16 * f.depth;
  const int key_columns = (tile.count + 15) / 16, key_steps = (tile.count + 31) / 32;
  for (int i = 0; i < 32; ++i) f.keep[i] = (key_steps - 1) * 32 + i < tile.count ? 0.0f : -__builtin_inff();
  if (key_columns % 2 == 1) {  // nobody writes the scores of the last 16 columns, yet they are read, and masked
    for (std::int64_t i = 0; i < pair_rows; ++i) {
      for (float* scores : f.scores) __builtin_memset(scores + i * score_width + key_columns * 16, 0, 64);
    }
  }
  const auto rows_of = [&](std::int64_t pair) {
    const std::int64_t rest = count - pair * pair_rows;
    return pair < 0 || rest <= 0 ? 0 : static_cast<int>(rest < pair_rows ? rest : pair_rows);
  };
  const auto list_of = [&](std::int64_t pair) { return list + (rows_of(pair) ? pair * pair_rows : 0); };
  for (std::int64_t pair = -1; pair <= pairs + 1; ++pair) {
    Weights weights{f.scores[pair & 1],
                    f.keep,
                    f.p[pair & 1],
                    list_of(pair),
                    f.reference,
                    f.sum,
                    f.factors[pair & 3],
                    rows_of(pair),
                    tile.count,
                    f.scale.magnitude,
                    0,
                    0,
                    zero(),
                    zero(),
                    zero()};
    weights.begin_row();
    Additions additions{f.products, f.factors[(pair - 2) & 3], list_of(pair - 2), f.out, f.width, rows_of(pair - 2), 0,
                        0};
    if (const int rows = rows_of(pair + 1)) {
      std::uint16_t* gathered = f.gathered[(pair + 1) & 1];
      const std::int32_t* next = list_of(pair + 1);
      for (int i = 0; i < rows; ++i) gather_row(gathered, strip, i, f.q + next[i] * f.depth, f.depth);
      WeightsAndAdditions both{weights, additions};
      multiply<false>(tiles, gathered, strip, rows, f.k, static_cast<int>(f.depth / tile_depth), key_columns,
                      f.scores[(pair + 1) & 1], score_width, both);
    }
    while (additions.row < additions.rows) additions.step();
    if (const int rows = rows_of(pair - 1)) {
      multiply<false>(tiles, f.p[(pair - 1) & 1], tile_keys / 32 * tile_size, rows, f.v, key_steps,
                      static_cast<int>(f.width / 16), f.products, f.width, weights);
    }
    while (weights.row < weights.rows) weights.step();
  }
}

void attend_with_tiles(const AttendItem& item) {
  const FlushSubnormals flush;
  Tiles tiles;
  const ItemShape& s = item.shape;
  const std::int64_t n = item.last - item.first, width = padded(s.dim), depth = deep(s.dim);
  Cutter memory{item.scratch};
  TileForward f{item, scale_of(s), width, depth};
  f.q = memory.cut<std::uint16_t>(n * depth);
  f.out = memory.cut<float>(n * width);
  f.reference = memory.cut<float>(n);
  f.sum = memory.cut<float>(n);
  std::int32_t* list = memory.cut<std::int32_t>(n);
  f.k = memory.cut<std::uint16_t>(tile_keys * depth);
  f.v = memory.cut<std::uint16_t>(tile_keys * width);
  for (int i = 0; i < 2; ++i) {
    f.gathered[i] = memory.cut<std::uint16_t>(pair_rows * depth);
    f.scores[i] = memory.cut<float>(pair_rows * score_width);
    f.p[i] = memory.cut<std::uint16_t>(pair_rows * tile_keys);
    // Rows beyond a pair's are computed and dropped; they start as zeros, not as whatever the memory held.
    __builtin_memset(f.gathered[i], 0, static_cast<unsigned long>(pair_rows * depth) * 2);
    __builtin_memset(f.p[i], 0, static_cast<unsigned long>(pair_rows * tile_keys) * 2);
  }
  f.products = memory.cut<float>(pair_rows * width);
  std::uint16_t* spare = memory.cut<std::uint16_t>(17 * depth);

  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint16_t* row = whole_row(item.q, s, item.first + i, spare);
    const std::uint16_t turn = s.scale < 0 ? 0x8000 : 0;
    for (std::int64_t d = 0; d < depth; ++d) f.q[i * depth + d] = static_cast<std::uint16_t>(row[d] ^ turn);
    f.reference[i] = -__builtin_inff();
    f.sum[i] = 0.0f;
  }
  __builtin_memset(f.out, 0, static_cast<unsigned long>(n * width) * sizeof(float));

  for (std::int64_t c = 0; c < key_blocks(s); ++c) {
    const std::int64_t keys = key_count(s, c), rows = list_rows(list, s, item.selection, c, item.first, item.last);
    if (rows == 0 || keys == 0) continue;
    const int length = whole_tile_length(keys);
    for (std::int64_t begin = 0; begin < keys; begin += length) {
      const KeyTile tile = key_tile(s, c, begin, begin + length < keys ? begin + length : keys);
      pack_keys(f.k, item.k, s, tile, spare);
      pack_values(f.v, item.v, s, tile, spare);
      attend_list(f, tiles, tile, list, rows);
    }
  }

  finish_rows(item, f.out, padded(s.dim), f.reference, f.sum);
}
