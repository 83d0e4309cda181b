// SPDX-License-Identifier: Apache-2.0
// The values of a case, and tensors laid out in memory as its layout says.
#pragma once

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "check/problems.hpp"
#include "check/tensors.hpp"
#include "differential/case.hpp"

namespace vmoba::fuzz {

using test::Rng;
using test::Tensor;
using test::Tensors;

inline std::string words(const Case& c) {
  std::ostringstream text;
  text << test::words(c.options) << "; data " << data_names[static_cast<int>(c.data)];
  if (c.poison != Poison::none) {
    constexpr const char* tensors[]{"q", "k", "v", "dout", "dlse"};
    text << ", " << poison_names[static_cast<int>(c.poison)] << " in " << (c.poison_row ? "rows" : "elements") << " of "
         << tensors[c.poison_tensor];
    if (c.poison_every > 0) text << " every " << c.poison_every;
  }
  text << "; attends " << selected_names[static_cast<int>(c.selected)];
  if (c.selected != Selected::by_policy && c.selected != Selected::dense) text << " " << c.keep << "%";
  text << (c.with_lse ? "" : ", no lse") << (c.with_dlse ? "" : ", no dlse") << (c.hide ? ", NaN out of reach" : "")
       << "; " << c.threads << " threads " << worker_names[static_cast<int>(c.workers)] << ", layout " << c.layout
       << ", seed " << c.seed;
  return text.str();
}

inline double huge_of(DType dtype) { return dtype == DType::f16 ? 3e4 : 1e25; }
inline double subnormal_of(DType dtype) { return dtype == DType::f16 ? 3e-7 : 1e-40; }

inline double poison_value(Poison poison, DType dtype) {
  switch (poison) {
    case Poison::nan:
      return std::numeric_limits<double>::quiet_NaN();
    case Poison::plus_infinity:
      return std::numeric_limits<double>::infinity();
    case Poison::minus_infinity:
      return -std::numeric_limits<double>::infinity();
    case Poison::huge:
      return huge_of(dtype);
    default:
      return subnormal_of(dtype);
  }
}

inline void fill_one(Tensor& t, Data data, Rng& rng) {
  std::vector<double> phase(static_cast<std::size_t>(t.width()));
  for (double& p : phase) p = 6.3 * rng.uniform();
  const std::int64_t values = rng.integer(0, 3);
  t.fill([&](std::int64_t, std::int64_t row, std::int64_t head, std::int64_t d) -> double {
    switch (data) {
      case Data::integers:
        return static_cast<double>(rng.integer(-values, values));
      case Data::smooth:
        return std::sin(static_cast<double>(row * (1 + d % 7)) / 40 + phase[d] + static_cast<double>(head)) +
               0.05 * rng.normal();
      case Data::loud_rows:
        return rng.normal() * (row % 97 == 3 ? 50 : 1);
      case Data::offset:
        return 3 + rng.normal();
      case Data::zeros:
        return 0;
      case Data::sharp:
        return 6 * rng.normal();
      default:
        return rng.normal();
    }
  });
}

// Padding text rows hold NaN everywhere: nobody may read them.
inline void poison_padding(const Problem& p, Tensor& t) {
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    const Sample& s = p.sample(b);
    for (std::int64_t i = s.text_valid; i < p.text().count; ++i) {
      for (std::int64_t h = 0; h < t.heads(); ++h) {
        for (std::int64_t d = 0; d < t.width(); ++d) {
          t.set(p.packed() ? 0 : b, s.row_begin + s.text_begin + i, h, d, std::nan(""));
        }
      }
    }
  }
}

inline Tensors make_tensors(const Case& c, const Problem& p) {
  Tensors t = Tensors::zeros_of(p);
  Rng rng(c.seed);
  fill_one(t.q, c.data == Data::equal_keys ? Data::normal : c.data, rng);
  fill_one(t.k, c.data, rng);
  if (c.data == Data::equal_keys) {
    std::vector<double> key(static_cast<std::size_t>(p.dim()));
    for (double& x : key) x = rng.normal();
    t.k.fill([&](auto, auto, auto, std::int64_t d) { return key[d]; });
  }
  const bool plain = c.data == Data::zeros || c.data == Data::equal_keys || c.data == Data::sharp;
  for (Tensor* tensor : {&t.v, &t.dout}) fill_one(*tensor, plain ? Data::normal : c.data, rng);
  fill_one(t.dlse, Data::normal, rng);
  Tensor* tensors[]{&t.q, &t.k, &t.v, &t.dout, &t.dlse};
  if (c.poison != Poison::none) {
    Tensor& tensor = *tensors[c.poison_tensor];
    const double value = poison_value(c.poison, c.poison_tensor == 4 ? DType::f32 : p.dtype());
    const std::int64_t first = rng.integer(0, tensor.rows() - 1), step = c.poison_every;
    const std::int64_t at = rng.integer(0, tensor.width() - 1), head = rng.integer(0, tensor.heads() - 1);
    for (std::int64_t b = 0; b < tensor.batch(); ++b) {
      for (std::int64_t r = step == 0 ? first : first % step; r < tensor.rows();
           r += step == 0 ? tensor.rows() : step) {
        for (std::int64_t d = 0; d < tensor.width(); ++d) {
          if (!c.poison_row && d != at) continue;
          const bool turned = c.poison == Poison::huge && rng.integer(0, 1);
          tensor.set(b, r, head, d, (turned ? -1 : 1) * value);
        }
      }
    }
  }
  for (Tensor* tensor : tensors) poison_padding(p, *tensor);
  return t;
}

// Bits by chance, a share of them kept; some heads keep all.
inline void fill_random(const Problem& p, Selection& selection, Rng& rng, std::int64_t keep) {
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      const std::int64_t percent = rng.integer(0, 5) == 0 ? 100 : keep;
      for (std::int64_t block = 0; block < selection.blocks(b); ++block) {
        for (std::int64_t row = 0; row < selection.shape(b).rows(); ++row) {
          if (rng.integer(0, 99) < percent) selection.set(b, h, row, block);
        }
      }
    }
  }
}

// The same grids cut for queries, by a block that fits all.
inline Selection block_rows(const Problem& p, Rng& rng) {
  Grid least = p.sample(0).partition->grid();
  for (std::int64_t b = 1; b < p.batch(); ++b) {
    const Grid& g = p.sample(b).partition->grid();
    least = {std::min(least.t, g.t), std::min(least.y, g.y), std::min(least.x, g.x)};
  }
  const Cuboid block{rng.integer(1, least.t), rng.integer(1, least.y), rng.integer(1, least.x)};
  std::vector<Selection::Shape> shapes;
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    const auto& keys = p.sample(b).partition;
    shapes.push_back({keys, std::make_shared<const Partition>(keys->grid(), block)});
  }
  return {std::move(shapes), p.heads()};
}

// What attend is given: null for dense. policy: what reference selected for this case.
inline std::optional<Selection> make_selection(const Case& c, const Problem& p, const Selection& policy) {
  Rng rng(c.seed ^ 0x5e1ec7);
  if (c.selected == Selected::by_policy) return policy;
  if (c.selected == Selected::dense) return std::nullopt;
  Selection selection = c.selected == Selected::block_rows ? block_rows(p, rng) : Selection(p);
  if (c.selected != Selected::one_for_all) {
    fill_random(p, selection, rng, c.keep);
    return selection;
  }
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      const std::int64_t all = rng.integer(0, selection.blocks(b) - 1), one = rng.integer(0, selection.blocks(b) - 1);
      for (std::int64_t row = 0; row < selection.shape(b).rows(); ++row) {
        if (c.keep > 30) selection.set(b, h, row, all);
        if (rng.integer(0, 99) < 3) selection.set(b, h, row, one);
      }
    }
  }
  return selection;
}

// NaN where nobody looks: keys and values that no row of their heads attends, and whatever belongs to rows that attend
// nothing. Text rows attend everything. True when there is such a place.
inline bool hide_poison(const Problem& p, const Selection* selection, Tensors& t) {
  if (!selection) return false;
  bool any_hidden = false;
  const std::int64_t group = p.heads() / p.kv_heads();
  const double nan = std::nan("");
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    const Sample& s = p.sample(b);
    if (s.text_valid > 0) continue;
    const std::int64_t at = p.packed() ? 0 : b;
    const auto set = [&](Tensor& tensor, std::int64_t token, std::int64_t head) {
      any_hidden = true;
      for (std::int64_t d = 0; d < tensor.width(); ++d) {
        tensor.set(at, s.row_begin + s.video_begin + token, head, d, nan);
      }
    };
    const Selection::Shape& shape = selection->shape(b);
    for (std::int64_t g = 0; g < p.kv_heads(); ++g) {
      for (std::int64_t block = 0; block < selection->blocks(b); ++block) {
        bool used = false;
        for (std::int64_t h = g * group; h < (g + 1) * group; ++h) {
          for (std::int64_t w = 0; w < shape.words(); ++w) used |= selection->words_of(b, h, block)[w] != 0;
        }
        if (used) continue;
        for (const std::int32_t token : s.partition->tokens_of(block)) set(t.k, token, g), set(t.v, token, g);
      }
    }
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      for (std::int64_t token = 0; token < s.tokens(); ++token) {
        const std::int64_t row = shape.queries ? shape.queries->own(token) : token;
        bool any = false;
        for (std::int64_t block = 0; block < selection->blocks(b); ++block) any |= selection->test(b, h, row, block);
        if (any) continue;
        for (Tensor* tensor : {&t.q, &t.dout, &t.dlse}) set(*tensor, token, h);
      }
    }
  }
  return any_hidden;
}

// A tensor's values at strides of their own: gaps between heads, rows and samples, any order of these axes, an address
// that is a multiple of the element only. Everything between the elements is 0xff, and memory ends with the last one.
class Strided {
 public:
  Strided(const Tensor& from, Rng* layout) : values_(from), size_(bytes_of(from.dtype())) {
    const std::int64_t extents[]{from.batch(), from.rows(), from.heads()};
    std::array<int, 3> order{2, 1, 0};  // from the innermost axis: heads, rows, batch
    if (from.width() == 1) order = {1, 2, 0};
    if (layout) {
      if (layout->integer(0, 2) == 0) std::swap(order[0], order[1]);
      if (layout->integer(0, 3) == 0) std::swap(order[1], order[2]);
    }
    const std::int64_t gaps[]{0, 0, 0, 1, 3, 8, 16, 40};
    std::int64_t reach = from.width();
    for (const int axis : order) {
      strides_[axis] = reach + (layout ? gaps[layout->integer(0, 7)] : 0);
      reach = strides_[axis] * extents[axis];
    }
    offset_ = layout ? layout->integer(0, 15) : 0;
    const std::int64_t last = offset_ + from.width() + (extents[0] - 1) * strides_[0] + (extents[1] - 1) * strides_[1] +
                              (extents[2] - 1) * strides_[2];
    memory_.assign(static_cast<std::size_t>(last * size_), 0xff);
    memory_.shrink_to_fit();
    each([&](std::size_t at, std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) {
      put(at, values_.get(b, r, h, d));
    });
  }
  View view() { return {memory_.data() + offset_ * size_, values_.dtype(), strides_[0], strides_[1], strides_[2]}; }
  // What memory holds now, contiguous.
  Tensor read() {
    Tensor result = values_;
    each([&](std::size_t at, std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) {
      result.set(b, r, h, d, element(at));
    });
    return result;
  }
  bool gaps_untouched() {
    std::vector<bool> used(memory_.size(), false);
    each([&](std::size_t at, auto...) { std::fill_n(used.begin() + static_cast<std::ptrdiff_t>(at), size_, true); });
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      if (!used[i] && memory_[i] != 0xff) return false;
    }
    return true;
  }

 private:
  template <class Body>
  void each(Body&& body) {
    values_.for_each([&](std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) {
      body(static_cast<std::size_t>((offset_ + b * strides_[0] + r * strides_[1] + h * strides_[2] + d) * size_), b, r,
           h, d);
    });
  }
  void put(std::size_t at, double value) {
    dispatch_dtype(values_.dtype(), [&](auto* type) {
      const auto element = from_double<std::remove_pointer_t<decltype(type)>>(value);
      std::memcpy(memory_.data() + at, &element, sizeof element);
    });
  }
  double element(std::size_t at) const {
    double value = 0;
    dispatch_dtype(values_.dtype(), [&](auto* type) {
      std::remove_pointer_t<decltype(type)> element;
      std::memcpy(&element, memory_.data() + at, sizeof element);
      value = to_double(element);
    });
    return value;
  }

  Tensor values_;
  std::int64_t size_;
  std::array<std::int64_t, 3> strides_{};
  std::int64_t offset_ = 0;
  std::vector<unsigned char> memory_;
};

}  // namespace vmoba::fuzz
