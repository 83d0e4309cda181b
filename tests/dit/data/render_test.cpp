// SPDX-License-Identifier: Apache-2.0
// Rendered clips: seeded, moving, described.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <set>

#include "../../io/temporary.hpp"
#include "dit/data/dataset.hpp"
#include "io/file.hpp"

namespace vmoba::dit {
namespace {

using test::message_of;

TEST(Render, seeded_and_independent_of_length) {
  const RenderedClip a = render_clip(5, 9, 48, 80), b = render_clip(5, 13, 48, 80), other = render_clip(6, 9, 48, 80);
  EXPECT_EQ(a.rgb.sizes(), (std::vector<std::int64_t>{9, 48, 80, 3}));
  EXPECT_EQ(a.rgb.scalar_type(), at::kByte);
  EXPECT_TRUE(at::equal(a.rgb, b.rgb.narrow(0, 0, 9)));
  EXPECT_EQ(a.caption, b.caption);
  EXPECT_FALSE(at::equal(a.rgb, other.rgb));
  EXPECT_EQ(render_clip(5, 1, 8, 8).caption, a.caption) << "the words depend on the size";
}

// The same bytes on every machine: this sum was computed once and is kept.
TEST(Render, golden) {
  std::int64_t sum = 0;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    const at::Tensor rgb = render_clip(seed, 3, 32, 48).rgb.flatten().to(at::kLong);
    sum += (rgb * at::arange(1, rgb.numel() + 1)).sum().item<std::int64_t>();
  }
  EXPECT_EQ(sum, 45584476538);
}

TEST(Render, everything_moves_and_is_visible) {
  std::set<std::string> captions;
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    const RenderedClip clip = render_clip(seed, 13, 48, 80);
    const at::Tensor x = clip.rgb.to(at::kFloat);
    EXPECT_GT(x[0].std().item<double>(), 8) << clip.caption;
    EXPECT_GT((x[12] - x[0]).abs().mean().item<double>(), 0.5) << clip.caption;
    EXPECT_GT((x[1] - x[0]).abs().max().item<double>(), 4) << clip.caption;
    EXPECT_TRUE(io::is_utf8(clip.caption));
    EXPECT_GT(clip.caption.size(), 15u);
    captions.insert(clip.caption);
  }
  EXPECT_EQ(captions.size(), 24u);
}

TEST(Render, refuses_wrong_arguments) {
  message_of(Error::Kind::argument, [] { render_clip(0, 0, 8, 8); });
  message_of(Error::Kind::argument, [] { render_clip(0, 1, -1, 8); });
  message_of(Error::Kind::argument, [] { render_clip(0, 1, 8, 1 << 20); });
  message_of(Error::Kind::argument, [] { render_clip(0, 1, 8, 8, 0); });
}

TEST(Captions, ids_end_between_characters) {
  const auto ids = [](const std::string& text, std::int64_t length) {
    const at::Tensor t = caption_ids(text, length);
    return std::vector<std::int64_t>(t.const_data_ptr<std::int64_t>(), t.const_data_ptr<std::int64_t>() + t.numel());
  };
  EXPECT_EQ(ids("ab", 4), (std::vector<std::int64_t>{'a', 'b', 256, 256}));
  EXPECT_EQ(ids("abcd", 3), (std::vector<std::int64_t>{'a', 'b', 'c'}));
  EXPECT_EQ(ids("", 2), (std::vector<std::int64_t>{256, 256}));
  EXPECT_EQ(ids("a\xE2\x82\xAC", 4), (std::vector<std::int64_t>{'a', 0xE2, 0x82, 0xAC}));
  EXPECT_EQ(ids("a\xE2\x82\xAC", 3), (std::vector<std::int64_t>{'a', 256, 256}));
  EXPECT_EQ(ids("\xC3\xA9\xC3\xA9", 3), (std::vector<std::int64_t>{0xC3, 0xA9, 256}));
  message_of(Error::Kind::argument, [] { caption_ids("a", 0); });
}

}  // namespace
}  // namespace vmoba::dit
