// SPDX-License-Identifier: Apache-2.0
// The gate kernels of one tier: block means of k, gates of a tile of queries, and what select reads off a tile. Seen by
// the tier files, so plain structs only.
#pragma once

#include <cstdint>

namespace vmoba::cpu {

// Gates are made in tiles of 64 query rows (one word of selection bits) by strips of 16 blocks (one AVX-512 vector, two
// of AVX2). A tile is laid out [strips][64][16], the block means of a head as panels [strips][D][16]. The same for
// every tier, so that everything that decides is plain C++ that reads tiles.
inline constexpr std::int64_t gate_rows = 64;
inline constexpr std::int64_t gate_strip = 16;

// One tile. Columns beyond N repeat the last block, so that they are finite whenever the real ones are; rows beyond
// `rows` hold anything.
struct GateTile {
  const void* q;  // first row of the tile, rows token_stride elements apart, D contiguous; null: `widened` has them
  int dtype;      // DType as a number: f32 0, bf16 1, f16 2
  std::int64_t token_stride;
  std::int64_t rows;    // 1..64
  std::int64_t dim;     // D, a multiple of 8
  const float* panels;  // [strips][D][16], of the first strip wanted
  std::int64_t strips;
  float* widened;  // [64][D] the rows of q in fp32, side by side; 64-byte aligned
  float* gates;    // [strips][64][16] out, 64-byte aligned
  // Rows that are wanted next, asked for meanwhile; next_stride bytes apart, next_bytes long.
  const char* next;
  std::int64_t next_rows, next_stride, next_bytes;
};

// Bits of one tile against a bracket [lo, hi] per block: gates above hi are selected, gates within are candidates that
// the caller orders exactly. Excluded (own) gates are -inf.
struct GateEmission {
  const float* gates;  // [strips][64][16]
  std::int64_t strips;
  std::int64_t rows;      // 1..64
  std::int64_t column;    // number of the first
  const float *lo, *hi;   // [strips * 16]
  std::uint64_t* words;   // [strips * 16] out: bit row of word c = gate > hi[c]
  double* sums;           // [strips * 16] added to: gates above hi
  std::int64_t* counts;   // [strips * 16] added to: their number
  float* values;          // candidates out, room for 64 * 16 * strips + 16
  std::uint32_t* places;  // theirs: column * 64 + row; the order is fixed but unspecified
};

// Scope query: 64 rows, each a group of its own, solved side by side. `turned` holds the tile with rows next to each
// other, [64 / lanes][16 strips][lanes], so that a lane is a row.
struct GateQueries {
  const float* gates;  // [strips][64][16], all finite where looked at
  std::int64_t strips, blocks;
  float* turned;            // [64 / lanes][16 * strips][lanes]; turn writes it, bracket reads it
  float *least, *greatest;  // [64] turn: out, of all blocks; bracket: in
  double* sums;             // [64] turn: out, of all blocks
  bool by_count;            // the rest is bracket's; own gates are -inf by then
  const float* needed;      // [64] number of others, or their sum of (gate - least); at least one is taken
  float *lo, *hi;           // [64] out: the cut of a row is in [lo, hi], or all are needed and lo is least
  std::uint64_t* words;     // [16 * strips] out: bit row of word c = gate > hi[row]
  float* above;             // [64] out: others above hi
  double* above_sums;       // [64] out: their sum
  float* values;            // gates in [lo, hi], by row group, then by block; room for 64 * 16 * strips + 16
  std::uint32_t* places;    // theirs: c * 64 + row
};

struct GateKernels {
  // mean[d] of `count` rows of k: rows[i] is an index in units of token_stride elements from k. fp64 sums, rounded
  // once.
  void (*mean)(const void* k, int dtype, std::int64_t token_stride, const std::int32_t* rows, std::int64_t count,
               std::int64_t dim, double* sums, float* mean);
  void (*gates)(const GateTile& tile);
  // Per column: least and greatest of rows 0..rows-1 against the values already there; sums added to in fp64.
  void (*stats)(const float* gates, std::int64_t strips, std::int64_t rows, float* least, float* greatest,
                double* sums);
  std::int64_t (*emit)(const GateEmission& emission);  // returns the number of candidates
  void (*turn)(const GateQueries& queries);
  std::int64_t (*bracket)(const GateQueries& queries);  // returns the number of candidates
  int lanes;                                            // of turned
};

}  // namespace vmoba::cpu
