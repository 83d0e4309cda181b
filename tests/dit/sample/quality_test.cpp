// SPDX-License-Identifier: Apache-2.0
// PSNR, SSIM and flicker on clips whose values can be worked out.
#include "dit/sample/quality.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "dit/train/noise.hpp"
#include "support/errors.hpp"

namespace vmoba::dit {
namespace {

at::Tensor noise_clip(std::uint64_t number, double deviation, double mean = 128) {
  return (normal_tensor({3, 24, 32, 3}, {5, Purpose::sampling, number}) * deviation + mean).clamp(0, 255).to(at::kByte);
}

TEST(Quality, PsnrOfAKnownDifference) {
  const at::Tensor a = at::full({2, 8, 8, 3}, 100, at::kByte), b = at::full({2, 8, 8, 3}, 105, at::kByte);
  EXPECT_NEAR(psnr(a, b), 10 * std::log10(255.0 * 255 / 25), 1e-9);
  EXPECT_TRUE(std::isinf(psnr(a, a)));
  EXPECT_DOUBLE_EQ(psnr(a, b), psnr(b, a));
}

TEST(Quality, SsimOfConstantsIsItsLumaTerm) {
  // Without variance only the luminance term is left: (2 x y + c1) / (x^2 + y^2 + c1).
  const at::Tensor a = at::full({1, 16, 16, 3}, 50, at::kByte), b = at::full({1, 16, 16, 3}, 100, at::kByte);
  const double c1 = 6.5025;
  EXPECT_NEAR(ssim(a, b), (2 * 50.0 * 100 + c1) / (2500 + 10000 + c1), 1e-6);
  EXPECT_NEAR(ssim(a, a), 1, 1e-9);
}

TEST(Quality, SsimFallsWithNoise) {
  const at::Tensor clip = noise_clip(1, 40);
  const at::Tensor little =
      (clip.to(at::kInt) + (normal_tensor(clip.sizes(), {6, Purpose::sampling, 0}) * 5).to(at::kInt))
          .clamp(0, 255)
          .to(at::kByte);
  const at::Tensor much =
      (clip.to(at::kInt) + (normal_tensor(clip.sizes(), {6, Purpose::sampling, 0}) * 40).to(at::kInt))
          .clamp(0, 255)
          .to(at::kByte);
  EXPECT_NEAR(ssim(clip, clip), 1, 1e-9);
  EXPECT_GT(ssim(clip, little), 0.9);
  EXPECT_LT(ssim(clip, much), ssim(clip, little));
  EXPECT_NEAR(ssim(clip, noise_clip(2, 40)), 0, 0.05);
  // Tiny frames have a window too.
  EXPECT_NEAR(ssim(clip.slice(1, 0, 4).slice(2, 0, 6), clip.slice(1, 0, 4).slice(2, 0, 6)), 1, 1e-9);
}

TEST(Quality, FlickerSeesStillPartsOnly) {
  const at::Tensor frozen = noise_clip(1, 40).slice(0, 0, 1).expand({4, 24, 32, 3}).contiguous();
  EXPECT_EQ(flicker(frozen), 0);
  EXPECT_EQ(frame_difference(frozen), 0);
  EXPECT_GT(flicker(noise_clip(3, 6)), 2);  // noise around one value: nothing moves, everything flickers
  at::Tensor jump = at::zeros({2, 24, 32, 3}, at::kByte);
  jump[1].fill_(200);
  EXPECT_TRUE(std::isnan(flicker(jump)));
  EXPECT_NEAR(frame_difference(jump), 200, 1e-6);
  EXPECT_EQ(flicker(jump.slice(0, 0, 1)), 0);
}

TEST(Quality, RefusesWhatIsNoClip) {
  const at::Tensor clip = noise_clip(1, 40);
  EXPECT_THROW(psnr(clip, clip.slice(0, 0, 2)), Error);
  EXPECT_THROW(psnr(clip.to(at::kFloat), clip.to(at::kFloat)), Error);
  EXPECT_THROW(flicker(clip[0]), Error);
  EXPECT_THROW(ssim(at::Tensor(), clip), Error);
}

}  // namespace
}  // namespace vmoba::dit
