// SPDX-License-Identifier: Apache-2.0
// The fixed tokenizer: shapes, an orthonormal basis, inversion on what it keeps, quality on clips.
#include "dit/data/tokenizer.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <cstdio>

#include "../../io/clips.hpp"
#include "../../io/temporary.hpp"
#include "dit/data/dataset.hpp"

namespace vmoba::dit {
namespace {

using test::message_of;

at::Tensor noise_clip(std::int64_t frames, std::int64_t height, std::int64_t width) {
  const auto random = at::detail::createCPUGenerator(7);
  return at::randint(0, 256, {frames, height, width, 3}, random, at::kByte);
}

double psnr(const at::Tensor& a, const at::Tensor& b) {
  return 10 * std::log10(255 * 255 / (a.to(at::kDouble) - b.to(at::kDouble)).pow(2).mean().item<double>());
}

TEST(Tokenizer, shapes) {
  const auto tokenizer = make_dct_tokenizer();
  EXPECT_EQ(tokenizer->channels(), 16);
  EXPECT_EQ(tokenizer->latent_shape(1, 8, 8), (std::array<std::int64_t, 3>{1, 1, 1}));
  EXPECT_EQ(tokenizer->latent_shape(45, 192, 320), (std::array<std::int64_t, 3>{12, 24, 40}));
  EXPECT_NE(message_of(Error::Kind::argument, [&] { tokenizer->latent_shape(48, 192, 320); }).find("use 45 or 49"),
            std::string::npos);
  EXPECT_NE(message_of(Error::Kind::argument, [&] { tokenizer->latent_shape(45, 190, 320); }).find("use 184 or 192"),
            std::string::npos);
  EXPECT_NE(message_of(Error::Kind::argument, [&] { tokenizer->latent_shape(45, 192, 4); }).find("use 8 or 16"),
            std::string::npos);
  message_of(Error::Kind::argument, [&] { tokenizer->latent_shape(0, 8, 8); });
  message_of(Error::Kind::argument, [&] { tokenizer->latent_shape(1, 8, 0); });
  message_of(Error::Kind::argument, [&] { tokenizer->encode(at::zeros({1, 8, 8, 3})); });
  message_of(Error::Kind::argument, [&] { tokenizer->encode(at::zeros({1, 8, 3}, at::kByte)); });
  message_of(Error::Kind::argument, [&] { tokenizer->decode(at::zeros({15, 1, 1, 1})); });
  message_of(Error::Kind::argument, [&] { tokenizer->decode(at::zeros({16, 0, 1, 1})); });
  EXPECT_FALSE(tokenizer->identity().empty());
}

// The plain definition in double: cosines written out, YCbCr by its textbook constants, one block at a time.
at::Tensor plain_luma_constant(const at::Tensor& rgb) {
  const auto [F, H, W] = std::tuple(rgb.size(0), rgb.size(1), rgb.size(2));
  const at::Tensor x = rgb.to(at::kDouble) / 127.5 - 1;
  const at::Tensor luma = 0.299 * x.select(3, 0) + 0.587 * x.select(3, 1) + 0.114 * x.select(3, 2);
  const at::Tensor first = luma.narrow(0, 0, 1).expand({4, H, W});
  return at::cat({first, luma.narrow(0, 1, F - 1)}).reshape({-1, 4, H / 8, 8, W / 8, 8}).sum({1, 3, 5}) / 16;
}

TEST(Tokenizer, channels_are_scaled_orthonormal_coefficients) {
  const auto tokenizer = make_dct_tokenizer();
  const at::Tensor rgb = noise_clip(9, 16, 24);
  const at::Tensor z = tokenizer->encode(rgb);
  EXPECT_EQ(z.sizes(), (std::vector<std::int64_t>{16, 3, 2, 3}));
  // Channel 0 is the constant of luma, up to its fixed mean and scale.
  const at::Tensor expected = plain_luma_constant(rgb), got = z[0].to(at::kDouble);
  const double slope = ((got - got.mean()) * (expected - expected.mean())).sum().item<double>() /
                       (expected - expected.mean()).pow(2).sum().item<double>();
  EXPECT_TRUE(at::allclose(got - got.mean(), slope * (expected - expected.mean()), 1e-5, 1e-5));
  EXPECT_NEAR(1 / slope, 3.9129, 1e-3);
}

// Orthonormal: what a change of one latent does to the pixels reads back as that latent alone. 8-bit pixels round, so
// the change is large and summed over many blocks in general position.
TEST(Tokenizer, inverts_on_what_it_keeps) {
  const auto tokenizer = make_dct_tokenizer();
  const auto random = at::detail::createCPUGenerator(3);
  at::Tensor z = 0.3 * at::randn({16, 5, 6, 7}, random);
  z[0] += 0.546;  // mid grey: no clipping at black or white
  z[2] -= 0.826, z[4] += 0.829;
  const at::Tensor back = tokenizer->encode(tokenizer->decode(z));
  // Rounding to 8 bits is noise of 1/sqrt(12) levels a value: at most 0.0045 / 0.28 a coefficient.
  const at::Tensor error = (back - z).narrow(1, 1, 4);
  EXPECT_LT(error.abs().max().item<double>(), 0.08);
  EXPECT_LT(error.pow(2).mean().sqrt().item<double>(), 0.015);
  EXPECT_LT(error.mean().abs().item<double>(), 0.002);  // no drift
}

TEST(Tokenizer, first_frame_is_a_still_block) {
  const auto tokenizer = make_dct_tokenizer();
  const at::Tensor frame = noise_clip(1, 16, 16);
  const at::Tensor still = frame.expand({9, 16, 16, 3}).contiguous();
  const at::Tensor z = tokenizer->encode(still);
  EXPECT_TRUE(at::allclose(z.select(1, 0), z.select(1, 1), 1e-5, 1e-5));
  const at::Tensor alone = tokenizer->encode(frame);
  EXPECT_TRUE(at::equal(alone.select(1, 0), z.select(1, 0)));
  const at::Tensor pixels = tokenizer->decode(z);
  EXPECT_EQ(pixels.sizes(), still.sizes());
  EXPECT_LE((pixels[0].to(at::kInt) - pixels[5].to(at::kInt)).abs().max().item<int>(), 1);
}

TEST(Tokenizer, poison_and_types) {
  const auto tokenizer = make_dct_tokenizer();
  at::Tensor z = at::full({16, 1, 1, 1}, std::nan(""));
  EXPECT_EQ(tokenizer->decode(z).sizes(), (std::vector<std::int64_t>{1, 8, 8, 3}));
  z.fill_(1e30);
  tokenizer->decode(z);
  z = at::randn({16, 2, 2, 2});
  EXPECT_TRUE(at::equal(tokenizer->decode(z), tokenizer->decode(z.to(at::kDouble))));
  EXPECT_TRUE(at::equal(tokenizer->decode(z), tokenizer->decode(z.transpose(2, 3).contiguous().transpose(2, 3))));
  EXPECT_TRUE(at::equal(tokenizer->encode(noise_clip(5, 16, 16)),
                        tokenizer->encode(noise_clip(5, 16, 16).transpose(1, 2).contiguous().transpose(1, 2))));
}

TEST(Tokenizer, quality_on_clips) {
  const auto tokenizer = make_dct_tokenizer();
  const auto measure = [&](const std::string& name, const at::Tensor& rgb) {
    const auto begin = std::chrono::steady_clock::now();
    const at::Tensor z = tokenizer->encode(rgb);
    const auto middle = std::chrono::steady_clock::now();
    const at::Tensor back = tokenizer->decode(z);
    const auto end = std::chrono::steady_clock::now();
    const auto ms = [](auto d) { return std::chrono::duration<double, std::milli>(d).count(); };
    const at::Tensor deviation = z.flatten(1).std(1);
    std::printf("  %-60.60s %3d frames  %.2f dB  encode %.0f ms  decode %.0f ms  deviation %.2f..%.2f\n", name.c_str(),
                static_cast<int>(rgb.size(0)), psnr(rgb, back), ms(middle - begin), ms(end - middle),
                deviation.min().item<double>(), deviation.max().item<double>());
    EXPECT_LT(deviation.max().item<double>(), 3) << name;
    return psnr(rgb, back);
  };
  // Rendered clips vary more than filmed ones: 25.2 to 31.9 dB over these.
  double sum = 0;
  constexpr int rendered = 24;
  for (std::uint64_t seed = 0; seed < rendered; ++seed) {
    const RenderedClip clip = render_clip(seed, 13, 192, 320);
    const double quality = measure(clip.caption, clip.rgb);
    EXPECT_GT(quality, 24.5) << clip.caption;
    sum += quality;
  }
  std::printf("  rendered, mean: %.2f dB\n", sum / rendered);
  EXPECT_GT(sum / rendered, 27.5);
  for (const auto& path : test::real_clips(VMOBA_SOURCE_DIR)) {
    io::Frames frames = io::read_video(path, {.fps = 12, .height = 192, .width = 320, .max_frames = 49});
    const at::Tensor rgb = at::from_blob(frames.rgb.data(), {(frames.frames - 1) / 4 * 4 + 1, 192, 320, 3}, at::kByte);
    EXPECT_GT(measure(std::filesystem::path(path).filename().string(), rgb), 27);
  }
}

}  // namespace
}  // namespace vmoba::dit
