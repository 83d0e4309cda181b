// SPDX-License-Identifier: Apache-2.0
// Selection: which query rows attend which key blocks. The one structure that passes between select and attend.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <span>
#include <vector>

#include "vmoba/problem.hpp"

namespace vmoba {

// Per sample and head a bit matrix, query rows by key blocks. A query row is one video token in raster order, or, for
// policies that choose per block, one block of a query partition. Stored block after block: bit (row % 64) of word
//   words[sample_begin(b) + (h * N + c) * words_per_block(b) + row / 64]
// says that row attends block c; unused high bits of a block's last word are 0. Size: S x N bits a head (3.5 MB for
// 12 heads at 33K tokens and 72 blocks), known from shapes alone.
class Selection {
 public:
  struct Shape {                                      // of one sample
    std::shared_ptr<const Partition> keys;            // key tokens to blocks
    std::shared_ptr<const Partition> queries;         // query tokens to rows; null: a row is a token
    std::int64_t rows() const { return queries ? queries->blocks() : keys->tokens(); }
    std::int64_t row_tokens(std::int64_t row) const { return queries ? queries->size(row) : 1; }
    std::int64_t words() const { return (rows() + 63) / 64; }
  };

  Selection() = default;
  // All bits 0; token rows, keys cut as the problem says. Owns its words.
  explicit Selection(const Problem& problem);
  // Any shapes. queries given: block rows.
  Selection(std::vector<Shape> shapes, std::int64_t heads);
  // The caller's memory instead of its own: words must hold word_count() entries and outlive the selection.
  Selection(const Problem& problem, std::span<std::uint64_t> words);
  static std::int64_t word_count(const Problem& problem);

  std::int64_t batch() const { return static_cast<std::int64_t>(shapes_.size()); }
  std::int64_t heads() const { return heads_; }
  const Shape& shape(std::int64_t b) const { return shapes_[b]; }
  std::int64_t blocks(std::int64_t b) const { return shapes_[b].keys->blocks(); }
  std::span<std::uint64_t> words() { return words_; }
  std::span<const std::uint64_t> words() const { return words_; }

  // Words of one block: words_of(b, h, c)[row / 64].
  std::uint64_t* words_of(std::int64_t b, std::int64_t h, std::int64_t c) {
    return words_.data() + begin_[b] + (h * blocks(b) + c) * shapes_[b].words();
  }
  const std::uint64_t* words_of(std::int64_t b, std::int64_t h, std::int64_t c) const {
    return words_.data() + begin_[b] + (h * blocks(b) + c) * shapes_[b].words();
  }
  bool test(std::int64_t b, std::int64_t h, std::int64_t row, std::int64_t c) const {
    return words_of(b, h, c)[row / 64] >> (row % 64) & 1;
  }
  void set(std::int64_t b, std::int64_t h, std::int64_t row, std::int64_t c, bool value = true);
  void fill(bool value);  // every bit

  // Share of query-key pairs kept, ragged blocks counted by their tokens; text is not counted. In 0..1.
  double density(std::int64_t b, std::int64_t h) const;
  double density() const;  // mean over samples and heads, each weighted by its pairs
  std::vector<std::int64_t> counts(std::int64_t b, std::int64_t h) const;       // [rows] blocks each row attends
  std::vector<std::int64_t> popularity(std::int64_t b, std::int64_t h) const;   // [N] rows that attend each block

  // Compressed lists: items[begin[i] .. begin[i + 1]) ascending.
  struct Lists {
    std::vector<std::int64_t> begin;
    std::vector<std::int32_t> items;
  };
  Lists rows_by_block(std::int64_t b, std::int64_t h) const;  // per block, the rows that attend it
  Lists blocks_by_row(std::int64_t b, std::int64_t h) const;  // the transpose

  // Pair-wise and / or. Throws Error unless heads and shapes are equal. The result owns its words.
  Selection operator&(const Selection& other) const;
  Selection operator|(const Selection& other) const;
  // The same selection with one row a token (block rows expanded to their tokens).
  Selection by_token() const;
  bool operator==(const Selection& other) const;  // shapes and bits

  // Binary form: magic "vmobasel", version, shapes, bits, checksum. load treats the stream as hostile and throws
  // Error(kind file); name is what messages call the stream. save throws when the stream fails. load reads one selection
  // and no byte more, so a stream may go on with another; a file holds one, and load_file refuses bytes after it.
  void save(std::ostream& stream, const std::string& name = "selection") const;
  static Selection load(std::istream& stream, const std::string& name = "selection");
  static Selection load_file(const std::string& path);

 private:
  std::vector<Shape> shapes_;
  std::int64_t heads_ = 0;
  std::vector<std::int64_t> begin_;  // [B] first word of each sample
  std::shared_ptr<std::vector<std::uint64_t>> owned_;
  std::span<std::uint64_t> words_;
  void lay_out();
};

}  // namespace vmoba
