// SPDX-License-Identifier: Apache-2.0
// Checking a call once, and laying out its samples.
#include "vmoba/problem.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "policy/policy.hpp"
#include "text.hpp"
#include "vmoba/error.hpp"

namespace vmoba {
namespace {

void check_positive(const char* argument, std::int64_t value, const char* what) {
  if (value < 1) throw_argument(argument, number(value), std::string("is not ") + what, "use 1 or more");
}

void check_text(const Text& text, std::int64_t batch) {
  if (text.count < 0) throw_argument("text.count", number(text.count), "is negative", "use 0 or more text tokens");
  if (text.count > std::numeric_limits<std::int32_t>::max()) {
    throw_argument("text.count", number(text.count), "is more than 2147483647", "use fewer text tokens");
  }
  if (text.at != Text::At::front && text.at != Text::At::rear) {
    throw_argument("text.at", number(static_cast<std::int64_t>(text.at)), "is no place for text", "use front or rear");
  }
  if (text.valid.empty()) return;
  if (static_cast<std::int64_t>(text.valid.size()) != batch) {
    throw_argument("text.valid", number(static_cast<std::int64_t>(text.valid.size())) + " numbers",
                   "is not one number a sample of a batch of " + number(batch),
                   "pass one number a sample, or none when all text is valid");
  }
  for (std::size_t b = 0; b < text.valid.size(); ++b) {
    if (text.valid[b] < 0 || text.valid[b] > text.count) {
      throw_argument("text.valid[" + std::to_string(b) + "]", number(text.valid[b]),
                     "is not a number of valid text tokens", "use 0.." + number(text.count));
    }
  }
}

// Refuses problems whose offsets would not fit 64 bits, so that no kernel has to ask.
void check_size(const ProblemOptions& options, std::int64_t batch, std::int64_t rows,
                const std::vector<Sample>& samples) {
  std::int64_t bytes = product_or_minus1(batch, rows);
  for (std::int64_t factor : {options.heads, options.dim, std::int64_t{8}}) bytes = product_or_minus1(bytes, factor);
  for (const Sample& sample : samples) {
    const std::int64_t pairs = product_or_minus1(sample.tokens() + 63, sample.partition->blocks());
    if (product_or_minus1(product_or_minus1(pairs, options.heads), batch) < 0) bytes = -1;
  }
  if (bytes < 0) {
    throw_argument("heads", number(options.heads),
                   "makes a tensor of more than 2^63 bytes with batch = " + number(batch) + ", " + number(rows) +
                       " rows and dim = " + number(options.dim),
                   "use fewer heads, rows or samples");
  }
}

template <class AnyView>
AnyView contiguous_unless_given(AnyView view, std::int64_t batch, std::int64_t token, std::int64_t head) {
  if (view.batch_stride == 0 && view.token_stride == 0 && view.head_stride == 0) {
    view.batch_stride = batch;
    view.token_stride = token;
    view.head_stride = head;
  }
  return view;
}

}  // namespace

Problem::Problem(ProblemOptions options) {
  check_positive("heads", options.heads, "a number of heads");
  if (options.kv_heads == 0) options.kv_heads = options.heads;
  if (options.kv_heads < 0 || options.heads % options.kv_heads != 0) {
    throw_argument("kv_heads", number(options.kv_heads), "does not divide heads = " + number(options.heads),
                   "use a divisor of heads, or 0 for one key/value head a query head");
  }
  check_positive("dim", options.dim, "a number of channels a head");
  switch (options.dtype) {
    case DType::f32:
    case DType::bf16:
    case DType::f16:
    case DType::f64:
      break;
    default:
      throw_argument("dtype", number(static_cast<std::int64_t>(options.dtype)), "is no element type",
                     "use f32, bf16, f16 or f64");
  }
  check_positive("batch", options.batch, "a number of samples");
  packed_ = !options.grids.empty();
  if (packed_ && options.grid != Grid{}) {
    throw_argument("grid", words(options.grid), "is given beside grids", "pass one of the two");
  }
  if (packed_ && options.batch != 1) {
    throw_argument("batch", number(options.batch), "is given beside grids, whose number is the batch",
                   "leave batch at 1");
  }
  if (options.batch > (1 << 20)) {
    throw_argument("batch", number(options.batch), "is more than 1048576", "use a smaller batch");
  }
  if (!options.scale) options.scale = 1 / std::sqrt(static_cast<double>(options.dim));
  if (!std::isfinite(*options.scale)) {
    throw_argument("scale", number(*options.scale), "is not a finite number",
                   "use a finite scale, or leave it out for 1/sqrt(dim)");
  }
  const std::int64_t batch = packed_ ? static_cast<std::int64_t>(options.grids.size()) : options.batch;
  check_text(options.text, batch);

  auto samples = std::make_shared<std::vector<Sample>>();
  samples->reserve(batch);
  for (std::int64_t b = 0; b < batch; ++b) {
    const Grid grid = packed_ ? options.grids[b] : options.grid;
    Sample sample;
    for (const Sample& other : *samples) {
      if (other.partition->grid() == grid) {
        sample.partition = other.partition;
        break;
      }
    }
    if (!sample.partition) sample.partition = std::make_shared<const Partition>(grid, options.block);
    const bool front = options.text.at == Text::At::front;
    sample.rows = sample.tokens() + options.text.count;
    sample.row_begin = packed_ ? rows_ : 0;
    sample.video_begin = front ? options.text.count : 0;
    sample.text_begin = front ? 0 : sample.tokens();
    sample.text_valid = options.text.valid.empty() ? options.text.count : options.text.valid[b];
    rows_ = packed_ ? rows_ + sample.rows : sample.rows;
    samples->push_back(std::move(sample));
  }
  check_size(options, packed_ ? 1 : batch, rows_, *samples);
  policy::entry(options.policy).check(options);
  options_ = std::make_shared<const ProblemOptions>(std::move(options));
  samples_ = std::move(samples);
}

std::int64_t Problem::tokens() const {
  std::int64_t sum = 0;
  for (const Sample& sample : *samples_) sum += sample.tokens();
  return sum;
}

ConstView Problem::resolve(ConstView view, std::int64_t heads, std::int64_t width) const {
  return contiguous_unless_given(view, rows_ * heads * width, heads * width, width);
}
View Problem::resolve(View view, std::int64_t heads, std::int64_t width) const {
  return contiguous_unless_given(view, rows_ * heads * width, heads * width, width);
}
ConstView Problem::resolve_lse(ConstView view) const {
  return contiguous_unless_given(view, heads() * rows_, 1, rows_);
}
View Problem::resolve_lse(View view) const { return contiguous_unless_given(view, heads() * rows_, 1, rows_); }

}  // namespace vmoba
