// SPDX-License-Identifier: Apache-2.0
// The selection bit matrix and its algebra. Its binary form is in selection_file.cpp.
#include "vmoba/selection.hpp"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "text.hpp"
#include "vmoba/error.hpp"

namespace vmoba {
namespace {

bool same(const std::shared_ptr<const Partition>& a, const std::shared_ptr<const Partition>& b) {
  if (a == b) return true;
  if (!a || !b) return false;
  return a->grid() == b->grid() && a->block() == b->block();  // grid and block determine the rest
}

bool same_shapes(const Selection& a, const Selection& b) {
  if (a.batch() != b.batch() || a.heads() != b.heads()) return false;
  for (std::int64_t i = 0; i < a.batch(); ++i) {
    if (!same(a.shape(i).keys, b.shape(i).keys) || !same(a.shape(i).queries, b.shape(i).queries)) return false;
  }
  return true;
}

std::string shape_words(const Selection& s) {
  std::string text = number(s.batch()) + " samples of " + number(s.heads()) + " heads";
  if (s.batch() > 0) {
    text += ", the first " + number(s.shape(0).rows()) + " rows by " + number(s.blocks(0)) + " blocks of " +
            words(s.shape(0).keys->block());
  }
  return text;
}

std::vector<Selection::Shape> token_shapes(const Problem& problem) {
  std::vector<Selection::Shape> shapes;
  shapes.reserve(problem.batch());
  for (std::int64_t b = 0; b < problem.batch(); ++b) shapes.push_back({problem.sample(b).partition, nullptr});
  return shapes;
}

// The bits of a block's last word that stand for rows.
std::uint64_t last_mask(std::int64_t rows) { return rows % 64 == 0 ? ~0ull : (1ull << rows % 64) - 1; }

template <class Body>
void for_each_bit(const std::uint64_t* words, std::int64_t count, Body&& body) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::uint64_t word = words[i]; word != 0; word &= word - 1) body(i * 64 + std::countr_zero(word));
  }
}

template <class Combine>
Selection combine(const Selection& a, const Selection& b, Combine&& op) {
  if (!same_shapes(a, b)) {
    throw_argument("selection", shape_words(b), "does not have the shape of the other, " + shape_words(a),
                   "combine selections of one problem");
  }
  std::vector<Selection::Shape> shapes;
  for (std::int64_t i = 0; i < a.batch(); ++i) shapes.push_back(a.shape(i));
  Selection result(std::move(shapes), a.heads());
  for (std::size_t i = 0; i < result.words().size(); ++i) result.words()[i] = op(a.words()[i], b.words()[i]);
  return result;
}

}  // namespace

void Selection::lay_out() {
  begin_.clear();
  std::int64_t begin = 0;
  for (const Shape& shape : shapes_) {
    begin_.push_back(begin);
    const std::int64_t count = product_or_minus1(product_or_minus1(shape.keys->blocks(), shape.words()), heads_);
    if (count < 0 || __builtin_add_overflow(begin, count, &begin)) {
      throw_argument("heads", number(heads_), "makes a selection of more than 2^63 words", "use fewer heads or blocks");
    }
  }
  begin_.push_back(begin);
}

Selection::Selection(const Problem& problem) : Selection(token_shapes(problem), problem.heads()) {}

Selection::Selection(std::vector<Shape> shapes, std::int64_t heads) : shapes_(std::move(shapes)), heads_(heads) {
  if (heads < 1) throw_argument("heads", number(heads), "is not a number of heads", "use 1 or more");
  for (std::size_t b = 0; b < shapes_.size(); ++b) {
    const std::string at = "shapes[" + std::to_string(b) + "]";
    if (!shapes_[b].keys) throw_argument(at + ".keys", "null", "is no partition", "say how the keys are cut");
    if (shapes_[b].queries && shapes_[b].queries->tokens() != shapes_[b].keys->tokens()) {
      throw_argument(at + ".queries", number(shapes_[b].queries->tokens()) + " tokens",
                     "is not a partition of the " + number(shapes_[b].keys->tokens()) + " tokens of the keys",
                     "cut the same grid");
    }
  }
  lay_out();
  owned_ = std::make_shared<std::vector<std::uint64_t>>(begin_.back(), 0);
  words_ = *owned_;
}

Selection::Selection(const Problem& problem, std::span<std::uint64_t> words)
    : shapes_(token_shapes(problem)), heads_(problem.heads()) {
  lay_out();
  if (static_cast<std::int64_t>(words.size()) != begin_.back()) {
    throw_argument("words", number(static_cast<std::int64_t>(words.size())) + " entries",
                   "is not the selection's size of " + number(begin_.back()),
                   "pass memory of Selection::word_count(problem) entries");
  }
  words_ = words;
}

std::int64_t Selection::word_count(const Problem& problem) {
  std::int64_t count = 0;
  for (const Shape& shape : token_shapes(problem)) count += problem.heads() * shape.keys->blocks() * shape.words();
  return count;
}

void Selection::set(std::int64_t b, std::int64_t h, std::int64_t row, std::int64_t c, bool value) {
  std::uint64_t& word = words_of(b, h, c)[row / 64];
  const std::uint64_t bit = 1ull << row % 64;
  word = value ? word | bit : word & ~bit;
}

void Selection::fill(bool value) {
  for (std::int64_t b = 0; b < batch(); ++b) {
    const std::int64_t per_block = shapes_[b].words();
    for (std::int64_t i = 0; i < heads_ * blocks(b); ++i) {
      std::uint64_t* block = words_.data() + begin_[b] + i * per_block;
      std::fill(block, block + per_block, value ? ~0ull : 0ull);
      if (value) block[per_block - 1] = last_mask(shapes_[b].rows());
    }
  }
}

double Selection::density(std::int64_t b, std::int64_t h) const {
  const Shape& shape = shapes_[b];
  double kept = 0;
  for (std::int64_t c = 0; c < blocks(b); ++c) {
    std::int64_t queries = 0;
    for_each_bit(words_of(b, h, c), shape.words(), [&](std::int64_t row) { queries += shape.row_tokens(row); });
    kept += static_cast<double>(queries) * static_cast<double>(shape.keys->size(c));
  }
  const double tokens = static_cast<double>(shape.keys->tokens());
  return kept / (tokens * tokens);
}

double Selection::density() const {
  double kept = 0, pairs = 0;
  for (std::int64_t b = 0; b < batch(); ++b) {
    const double tokens = static_cast<double>(shapes_[b].keys->tokens());
    for (std::int64_t h = 0; h < heads_; ++h) {
      kept += density(b, h) * tokens * tokens;
      pairs += tokens * tokens;
    }
  }
  return pairs > 0 ? kept / pairs : 0;
}

std::vector<std::int64_t> Selection::counts(std::int64_t b, std::int64_t h) const {
  std::vector<std::int64_t> result(shapes_[b].rows(), 0);
  for (std::int64_t c = 0; c < blocks(b); ++c) {
    for_each_bit(words_of(b, h, c), shapes_[b].words(), [&](std::int64_t row) { ++result[row]; });
  }
  return result;
}

std::vector<std::int64_t> Selection::popularity(std::int64_t b, std::int64_t h) const {
  std::vector<std::int64_t> result(blocks(b), 0);
  for (std::int64_t c = 0; c < blocks(b); ++c) {
    const std::uint64_t* words = words_of(b, h, c);
    for (std::int64_t i = 0; i < shapes_[b].words(); ++i) result[c] += std::popcount(words[i]);
  }
  return result;
}

Selection::Lists Selection::rows_by_block(std::int64_t b, std::int64_t h) const {
  Lists lists;
  lists.begin.push_back(0);
  for (std::int64_t c = 0; c < blocks(b); ++c) {
    for_each_bit(words_of(b, h, c), shapes_[b].words(),
                 [&](std::int64_t row) { lists.items.push_back(static_cast<std::int32_t>(row)); });
    lists.begin.push_back(static_cast<std::int64_t>(lists.items.size()));
  }
  return lists;
}

Selection::Lists Selection::blocks_by_row(std::int64_t b, std::int64_t h) const {
  Lists lists;
  lists.begin.assign(shapes_[b].rows() + 1, 0);
  const std::vector<std::int64_t> count = counts(b, h);
  for (std::size_t row = 0; row < count.size(); ++row) lists.begin[row + 1] = lists.begin[row] + count[row];
  lists.items.resize(lists.begin.back());
  std::vector<std::int64_t> next(lists.begin.begin(), lists.begin.end() - 1);
  for (std::int64_t c = 0; c < blocks(b); ++c) {
    for_each_bit(words_of(b, h, c), shapes_[b].words(),
                 [&](std::int64_t row) { lists.items[next[row]++] = static_cast<std::int32_t>(c); });
  }
  return lists;
}

Selection Selection::operator&(const Selection& other) const {
  return combine(*this, other, [](std::uint64_t a, std::uint64_t b) { return a & b; });
}
Selection Selection::operator|(const Selection& other) const {
  return combine(*this, other, [](std::uint64_t a, std::uint64_t b) { return a | b; });
}

Selection Selection::by_token() const {
  std::vector<Shape> shapes;
  for (const Shape& shape : shapes_) shapes.push_back({shape.keys, nullptr});
  if (shapes.empty()) return *this;
  Selection result(std::move(shapes), heads_);
  for (std::int64_t b = 0; b < batch(); ++b) {
    const Shape& shape = shapes_[b];
    for (std::int64_t h = 0; h < heads_; ++h) {
      for (std::int64_t c = 0; c < blocks(b); ++c) {
        std::uint64_t* to = result.words_of(b, h, c);
        if (!shape.queries) {
          std::copy_n(words_of(b, h, c), shape.words(), to);
          continue;
        }
        for_each_bit(words_of(b, h, c), shape.words(), [&](std::int64_t row) {
          for (std::int32_t s : shape.queries->tokens_of(row)) to[s / 64] |= 1ull << s % 64;
        });
      }
    }
  }
  return result;
}

bool Selection::operator==(const Selection& other) const {
  return same_shapes(*this, other) && std::ranges::equal(words_, other.words_);
}

}  // namespace vmoba
