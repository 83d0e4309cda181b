// SPDX-License-Identifier: Apache-2.0
// Test tensors of any dtype and stride, filled from a seeded generator, with every unwritten element poisoned.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "dispatch.hpp"
#include "float16.hpp"
#include "vmoba/vmoba.hpp"

namespace vmoba::test {

// splitmix64: the same numbers on every machine.
class Rng {
 public:
  explicit Rng(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
  }
  std::int64_t integer(std::int64_t low, std::int64_t high) {  // both included
    return low + static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(high - low + 1));
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double normal() { return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform()); }

 private:
  std::uint64_t state_;
};

// How a tensor lies in memory. padded: gaps between heads, rows and samples, which must never be read or written.
enum class Layout { contiguous, padded };

// A [batch, rows, heads, width] tensor ([batch, heads, rows] for an lse). All memory, gaps included, starts as NaN.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, std::int64_t batch, std::int64_t rows, std::int64_t heads, std::int64_t width,
         Layout layout = Layout::contiguous)
      : dtype_(dtype), batch_(batch), rows_(rows), heads_(heads), width_(width) {
    const std::int64_t gap = layout == Layout::padded ? 8 : 0;
    head_stride_ = width + gap;
    token_stride_ = heads * head_stride_ + gap;
    batch_stride_ = rows * token_stride_ + gap;
    allocate(batch * batch_stride_);
  }
  static Tensor lse(DType dtype, std::int64_t batch, std::int64_t rows, std::int64_t heads) {
    Tensor t;
    t.dtype_ = dtype, t.batch_ = batch, t.rows_ = rows, t.heads_ = heads, t.width_ = 1;
    t.token_stride_ = 1, t.head_stride_ = rows, t.batch_stride_ = heads * rows;
    t.allocate(batch * t.batch_stride_);
    return t;
  }

  DType dtype() const { return dtype_; }
  std::int64_t batch() const { return batch_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t heads() const { return heads_; }
  std::int64_t width() const { return width_; }
  View view() { return {memory_.data(), dtype_, batch_stride_, token_stride_, head_stride_}; }
  ConstView view() const { return {memory_.data(), dtype_, batch_stride_, token_stride_, head_stride_}; }
  operator ConstView() const { return view(); }
  operator View() { return view(); }

  double get(std::int64_t b, std::int64_t row, std::int64_t head, std::int64_t d) const {
    double value = 0;
    dispatch_dtype(dtype_, [&](auto* type) {
      using Element = std::remove_pointer_t<decltype(type)>;
      Element element;
      std::memcpy(&element, bytes() + index(b, row, head, d) * sizeof element, sizeof element);
      value = to_double(element);
    });
    return value;
  }
  void set(std::int64_t b, std::int64_t row, std::int64_t head, std::int64_t d, double value) {
    dispatch_dtype(dtype_, [&](auto* type) {
      using Element = std::remove_pointer_t<decltype(type)>;
      const Element element = from_double<Element>(value);
      std::memcpy(bytes() + index(b, row, head, d) * sizeof element, &element, sizeof element);
    });
  }
  // value(b, row, head, d) for every element.
  void fill(const std::function<double(std::int64_t, std::int64_t, std::int64_t, std::int64_t)>& value) {
    for_each(
        [&](std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) { set(b, r, h, d, value(b, r, h, d)); });
  }
  void fill_normal(Rng& rng, double scale = 1) {
    fill([&](auto...) { return scale * rng.normal(); });
  }
  void poison() { std::fill(memory_.begin(), memory_.end(), ~0ull); }  // NaN in every dtype

  // [batch, rows, heads, width], contiguous.
  std::vector<double> doubles() const {
    std::vector<double> values;
    values.reserve(batch_ * rows_ * heads_ * width_);
    for_each(
        [&](std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) { values.push_back(get(b, r, h, d)); });
    return values;
  }
  // The same values in another dtype, contiguous (an lse stays an lse).
  Tensor to(DType dtype) const {
    Tensor t = width_ == 1 && token_stride_ == 1 ? lse(dtype, batch_, rows_, heads_)
                                                 : Tensor(dtype, batch_, rows_, heads_, width_);
    for_each(
        [&](std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) { t.set(b, r, h, d, get(b, r, h, d)); });
    return t;
  }
  // Samples [first, first + count) of the batch, or rows of a packed batch.
  Tensor sample(std::int64_t b) const { return slice(b, 0, rows_); }
  Tensor slice(std::int64_t b, std::int64_t first_row, std::int64_t rows) const {
    Tensor t =
        width_ == 1 && token_stride_ == 1 ? lse(dtype_, 1, rows, heads_) : Tensor(dtype_, 1, rows, heads_, width_);
    t.fill([&](std::int64_t, std::int64_t r, std::int64_t h, std::int64_t d) { return get(b, first_row + r, h, d); });
    return t;
  }
  bool same_bits(const Tensor& other) const { return memory_ == other.memory_; }
  // True while no gap between rows has been written.
  bool gaps_untouched() const {
    std::vector<bool> used(elements_, false);
    for_each([&](std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) { used[index(b, r, h, d)] = true; });
    const std::int64_t size = bytes_of(dtype_);
    for (std::int64_t i = 0; i < elements_; ++i) {
      for (std::int64_t j = 0; !used[i] && j < size; ++j) {
        if (bytes()[i * size + j] != 0xff) return false;
      }
    }
    return true;
  }

  template <class Body>
  void for_each(Body&& body) const {
    for (std::int64_t b = 0; b < batch_; ++b) {
      for (std::int64_t r = 0; r < rows_; ++r) {
        for (std::int64_t h = 0; h < heads_; ++h) {
          for (std::int64_t d = 0; d < width_; ++d) body(b, r, h, d);
        }
      }
    }
  }

 private:
  void allocate(std::int64_t elements) {
    elements_ = elements;
    memory_.assign((elements * bytes_of(dtype_) + 7) / 8 + 1, ~0ull);
  }
  std::int64_t index(std::int64_t b, std::int64_t row, std::int64_t head, std::int64_t d) const {
    return b * batch_stride_ + row * token_stride_ + head * head_stride_ + d;
  }
  unsigned char* bytes() { return reinterpret_cast<unsigned char*>(memory_.data()); }
  const unsigned char* bytes() const { return reinterpret_cast<const unsigned char*>(memory_.data()); }

  DType dtype_ = DType::f32;
  std::int64_t batch_ = 0, rows_ = 0, heads_ = 0, width_ = 0;
  std::int64_t batch_stride_ = 0, token_stride_ = 0, head_stride_ = 0, elements_ = 0;
  std::vector<std::uint64_t> memory_;
};

// Everything a forward and a backward of one problem touch. Inputs are filled, outputs poisoned.
struct Tensors {
  Tensor q, k, v, dout, dlse;   // inputs
  Tensor out, lse, dq, dk, dv;  // outputs

  static Tensors zeros_of(const Problem& p, Layout layout = Layout::contiguous) {
    const std::int64_t batch = p.packed() ? 1 : p.batch(), rows = p.rows();
    const auto queries = [&] { return Tensor(p.dtype(), batch, rows, p.heads(), p.dim(), layout); };
    const auto keys = [&] { return Tensor(p.dtype(), batch, rows, p.kv_heads(), p.dim(), layout); };
    const auto lse = [&] { return Tensor::lse(p.lse_dtype(), batch, rows, p.heads()); };
    return {queries(), keys(), keys(), queries(), lse(), queries(), lse(), queries(), keys(), keys()};
  }
  static Tensors random(const Problem& p, std::uint64_t seed, Layout layout = Layout::contiguous, double scale = 1) {
    Tensors t = zeros_of(p, layout);
    Rng rng(seed);
    for (Tensor* tensor : {&t.q, &t.k}) tensor->fill_normal(rng, scale);
    for (Tensor* tensor : {&t.v, &t.dout, &t.dlse}) tensor->fill_normal(rng);
    return t;
  }
  void poison_outputs() {
    for (Tensor* tensor : {&out, &lse, &dq, &dk, &dv}) tensor->poison();
  }
  // The same inputs, exactly, in another dtype (double for the truth); outputs poisoned.
  Tensors to(DType dtype, DType lse_dtype) const {
    Tensors t{q.to(dtype),   k.to(dtype),       v.to(dtype),  dout.to(dtype), dlse.to(lse_dtype),
              out.to(dtype), lse.to(lse_dtype), dq.to(dtype), dk.to(dtype),   dv.to(dtype)};
    t.poison_outputs();
    return t;
  }
};

inline Problem with_dtype(const Problem& problem, DType dtype) {
  ProblemOptions options = problem.options();
  options.dtype = dtype;
  return Problem(options);
}

// One sample of a problem by itself: what a batch must equal.
inline Problem only_sample(const Problem& problem, std::int64_t b) {
  ProblemOptions options = problem.options();
  options.grid = problem.sample(b).partition->grid();
  options.grids.clear();
  options.batch = 1;
  if (!options.text.valid.empty()) options.text.valid = {problem.text().valid[b]};
  return Problem(options);
}
inline Tensor only_sample(const Problem& problem, const Tensor& tensor, std::int64_t b) {
  const Sample& s = problem.sample(b);
  return problem.packed() ? tensor.slice(0, s.row_begin, s.rows) : tensor.sample(b);
}

// Runs forward and backward; selection null: dense.
inline void run(const Problem& p, const Selection* selection, Tensors& t, const Execution& execution,
                bool with_dlse = true) {
  t.poison_outputs();
  if (selection) {
    attend(p, *selection, t.q, t.k, t.v, t.out, t.lse, execution);
  } else {
    attend(p, t.q, t.k, t.v, t.out, t.lse, execution);
  }
  BackwardTensors b{t.q, t.k, t.v, t.out, t.lse, t.dout, with_dlse ? ConstView(t.dlse) : ConstView{}, t.dq, t.dk, t.dv};
  if (selection) {
    attend_backward(p, *selection, b, execution);
  } else {
    attend_backward(p, b, execution);
  }
}

// The truth for these inputs: reference in double, from the inputs as rounded. Selection bits are taken over.
inline Tensors truth(const Problem& p, const Selection* selection, const Tensors& t, bool with_dlse = true) {
  Tensors result = t.to(DType::f64, DType::f64);
  run(with_dtype(p, DType::f64), selection, result, {.backend = "reference"}, with_dlse);
  return result;
}

}  // namespace vmoba::test
