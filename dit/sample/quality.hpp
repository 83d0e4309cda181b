// SPDX-License-Identifier: Apache-2.0
// Measures of clips: PSNR and SSIM of one against another, flicker of one.
#pragma once

#include <ATen/core/Tensor.h>

namespace vmoba::dit {

// All take uint8 [F, Hp, Wp, 3] and throw Error when shapes differ or are not such.

// 10 log10(255^2 / mean squared difference) over all values; infinity when equal.
double psnr(const at::Tensor& a, const at::Tensor& b);
// Structural similarity (Wang et al. 2004): 11x11 Gaussian window of deviation 1.5, luma (BT.601), K1 0.01, K2 0.03,
// windows inside the frame only, mean over windows and frames. Frames smaller than 11 pixels use the largest odd window
// that fits.
double ssim(const at::Tensor& a, const at::Tensor& b);
// Temporal flicker: mean absolute luma difference of consecutive frames over the pixels that do not move, 0..255. Still
// means: the smoothed difference (9x9 mean) of the two frames is below 2. 0 for one frame, NaN when nothing is still.
double flicker(const at::Tensor& clip);
// Mean absolute luma difference of consecutive frames over all pixels: 0 for a frozen clip. A crude measure of motion.
double frame_difference(const at::Tensor& clip);

}  // namespace vmoba::dit
