// SPDX-License-Identifier: Apache-2.0
// Plain types of the interface: dtypes, grids, blocks, text, tensor views. Letters as in HACKING.md:
// B batch, S video tokens, H query heads, G key/value heads, D head dim, N blocks, L text tokens, T Y X grid.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

namespace vmoba {

enum class DType : std::uint8_t {
  f32,
  bf16,
  f16,
  f64,  // backend reference only: gradient checks
};
std::string_view name(DType dtype);     // "f32", "bf16", ...
std::int64_t bytes_of(DType dtype);     // bytes of one element

// 16-bit storage types, so that a pointer carries its dtype. Bits only, no arithmetic.
struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

// Latent token grid after patchify. Token index in raster order: (t * Y + y) * X + x.
struct Grid {
  std::int64_t t = 1, y = 1, x = 1;
  std::int64_t tokens() const { return t * y * x; }
  bool operator==(const Grid&) const = default;
};

// Extent of a block on one axis: the whole axis, whatever the grid is.
inline constexpr std::int64_t full = -1;

// Block extents in tokens per axis. (t, full, full) is a 1D block, (full, y, x) a 2D block, (t, y, x) a 3D block
// (paper section 3.2). The last block of an axis is shorter when the axis does not divide.
struct Cuboid {
  std::int64_t t = full, y = full, x = full;
  bool operator==(const Cuboid&) const = default;
};
// Runs of consecutive tokens in raster order; the last may be short. Exists because the published code lets a 1D block
// hold a fractional number of frames.
struct Run {
  std::int64_t tokens = 0;
  bool operator==(const Run&) const = default;
};
// How a grid is cut: a Cuboid, written {7, 5, 13}, or a Run, written Run{1024}.
class Block {
 public:
  Block() = default;  // one block holds everything
  Block(std::int64_t t, std::int64_t y, std::int64_t x) : shape_(Cuboid{t, y, x}) {}
  Block(Cuboid cuboid) : shape_(cuboid) {}
  Block(Run run) : shape_(run) {}
  const Cuboid* cuboid() const { return std::get_if<Cuboid>(&shape_); }  // null when it is a Run
  const Run* run() const { return std::get_if<Run>(&shape_); }           // null when it is a Cuboid
  bool operator==(const Block&) const = default;

 private:
  std::variant<Cuboid, Run> shape_ = Cuboid{};
};

// Text tokens of joint attention (HunyuanVideo, CogVideoX): each sample's sequence is [text; video] or [video; text].
// Every query attends all valid text keys, text queries attend everything; text takes no part in gate, budget or density.
struct Text {
  enum class At : std::uint8_t { front, rear };
  std::int64_t count = 0;            // L, the same for every sample, padding included
  At at = At::rear;
  std::vector<std::int64_t> valid;   // per sample, 0..L; empty: all valid. Tokens beyond it are attended by nobody,
                                     // give out 0 and lse -inf, and get zero gradients
  bool operator==(const Text&) const = default;
};

// A strided [B, R, H, D] tensor in the caller's memory; R counts all rows of a sample (text and video). D is contiguous.
// Strides in elements; all three 0 means contiguous in the layout the function states. Not owned, never kept.
// An lse is a view with D = 1 whose default layout is [B, H, R].
struct ConstView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t batch_stride = 0, token_stride = 0, head_stride = 0;

  ConstView() = default;
  ConstView(const void* data, DType dtype, std::int64_t batch_stride = 0, std::int64_t token_stride = 0,
            std::int64_t head_stride = 0)
      : data(data), dtype(dtype), batch_stride(batch_stride), token_stride(token_stride), head_stride(head_stride) {}
  ConstView(const float* data) : data(data), dtype(DType::f32) {}
  ConstView(const double* data) : data(data), dtype(DType::f64) {}
  ConstView(const bf16* data) : data(data), dtype(DType::bf16) {}
  ConstView(const f16* data) : data(data), dtype(DType::f16) {}
  template <class Element>
  ConstView(const std::vector<Element>& data) : ConstView(data.data()) {}
  explicit operator bool() const { return data != nullptr; }
};
struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t batch_stride = 0, token_stride = 0, head_stride = 0;

  View() = default;
  View(void* data, DType dtype, std::int64_t batch_stride = 0, std::int64_t token_stride = 0,
       std::int64_t head_stride = 0)
      : data(data), dtype(dtype), batch_stride(batch_stride), token_stride(token_stride), head_stride(head_stride) {}
  View(float* data) : data(data), dtype(DType::f32) {}
  View(double* data) : data(data), dtype(DType::f64) {}
  View(bf16* data) : data(data), dtype(DType::bf16) {}
  View(f16* data) : data(data), dtype(DType::f16) {}
  template <class Element>
  View(std::vector<Element>& data) : View(data.data()) {}
  operator ConstView() const { return {data, dtype, batch_stride, token_stride, head_stride}; }
  explicit operator bool() const { return data != nullptr; }
};

}  // namespace vmoba
