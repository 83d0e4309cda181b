// SPDX-License-Identifier: Apache-2.0
// Measures of clips.
#include "dit/sample/quality.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "dit/train/tensors.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

void check(const at::Tensor& clip) {
  if (!clip.defined() || clip.dim() != 4 || clip.size(3) != 3 || clip.scalar_type() != at::kByte || clip.numel() == 0) {
    throw_argument("clip", clip.defined() ? shape_text(clip.sizes()) : "nothing",
                   "must be uint8 [frames, height, width, 3]", "decode the latents first");
  }
}

void check(const at::Tensor& a, const at::Tensor& b) {
  check(a);
  check(b);
  if (a.sizes() != b.sizes()) {
    throw_argument("clip", shape_text(b.sizes()), "must have the shape " + shape_text(a.sizes()) + " of the other clip",
                   "sample both at one size");
  }
}

// [F, Hp, Wp, 3] -> [F, 1, Hp, Wp], double: sums over a clip lose digits in float.
at::Tensor luma(const at::Tensor& clip) {
  const at::Tensor weights = torch::tensor({0.299, 0.587, 0.114}, at::kDouble);
  return clip.to(at::kDouble).matmul(weights).unsqueeze(1);
}

}  // namespace

double psnr(const at::Tensor& a, const at::Tensor& b) {
  check(a, b);
  const double error = (a.to(at::kDouble) - b.to(at::kDouble)).square().mean().item<double>();
  return error == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(255.0 * 255.0 / error);
}

double ssim(const at::Tensor& a, const at::Tensor& b) {
  check(a, b);
  std::int64_t window = std::min<std::int64_t>({11, a.size(1), a.size(2)});
  window -= 1 - window % 2;
  const at::Tensor axis = at::arange(window, at::kDouble) - static_cast<double>(window / 2);
  at::Tensor gauss = at::exp(-axis.square() / (2 * 1.5 * 1.5));
  gauss = gauss / gauss.sum();
  const auto blur = [&](const at::Tensor& x) {
    return at::conv2d(at::conv2d(x, gauss.view({1, 1, window, 1})), gauss.view({1, 1, 1, window}));
  };
  const at::Tensor x = luma(a), y = luma(b);
  const at::Tensor mean_x = blur(x), mean_y = blur(y);
  const at::Tensor var_x = blur(x * x) - mean_x * mean_x, var_y = blur(y * y) - mean_y * mean_y;
  const at::Tensor covariance = blur(x * y) - mean_x * mean_y;
  const double c1 = (0.01 * 255) * (0.01 * 255), c2 = (0.03 * 255) * (0.03 * 255);
  const at::Tensor similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) /
                                ((mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2));
  return similarity.mean().item<double>();
}

double flicker(const at::Tensor& clip) {
  check(clip);
  if (clip.size(0) < 2) return 0;
  const at::Tensor frames = luma(clip);
  const at::Tensor difference = frames.slice(0, 1) - frames.slice(0, 0, -1);
  const at::Tensor smooth = at::avg_pool2d(difference, /*kernel_size=*/9, /*stride=*/1, /*padding=*/4,
                                           /*ceil_mode=*/false, /*count_include_pad=*/false);
  const at::Tensor still = (smooth.abs() < 2).to(at::kDouble);
  const double pixels = still.sum().item<double>();
  if (pixels == 0) return std::numeric_limits<double>::quiet_NaN();
  return (difference.abs() * still).sum().item<double>() / pixels;
}

double frame_difference(const at::Tensor& clip) {
  check(clip);
  if (clip.size(0) < 2) return 0;
  const at::Tensor frames = luma(clip);
  return (frames.slice(0, 1) - frames.slice(0, 0, -1)).abs().mean().item<double>();
}

}  // namespace vmoba::dit
