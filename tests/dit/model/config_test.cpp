// SPDX-License-Identifier: Apache-2.0
// config.json: defaults and round trip as in diffusers, and one clear sentence for everything that is wrong.
#include "dit/model/config.hpp"

#include <gtest/gtest.h>

#include <string>

#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

TEST(Config, EmptyObjectGivesTheDefaultsOfDiffusers) {
  const Config config = parse_config("{}", "config.json");
  EXPECT_EQ(config, Config{});
  EXPECT_EQ(config.width(), 5120);
}

TEST(Config, RoundTripKeepsEveryField) {
  const Config config{.patch_size = {2, 1, 3},
                      .num_attention_heads = 3,
                      .attention_head_dim = 24,
                      .in_channels = 5,
                      .out_channels = 7,
                      .text_dim = 11,
                      .freq_dim = 10,
                      .ffn_dim = 13,
                      .num_layers = 2,
                      .cross_attn_norm = false,
                      .qk_norm = std::nullopt,
                      .eps = 3e-7,
                      .image_dim = 17,
                      .added_kv_proj_dim = 72,
                      .rope_max_seq_len = 99,
                      .pos_embed_seq_len = 6};
  EXPECT_EQ(parse_config(to_json(config), "config.json"), config);
  EXPECT_NE(config, Config{});
}

TEST(Config, UnknownFieldsAreIgnoredAndNullOutChannelsFollowIn) {
  const Config config = parse_config(R"({"window_size": [-1, -1], "in_channels": 9, "out_channels": null})", "c");
  EXPECT_EQ(config.in_channels, 9);
  EXPECT_EQ(config.out_channels, 9);
}

struct Bad {
  const char* text;
  const char* said;  // must occur in the message
};
class BadConfig : public testing::TestWithParam<Bad> {};

TEST_P(BadConfig, IsRefusedByNameOfFileAndField) {
  try {
    parse_config(GetParam().text, "dir/config.json");
    FAIL() << GetParam().text;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::file);
    EXPECT_NE(std::string(error.what()).find("dir/config.json"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(GetParam().said), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, BadConfig,
    testing::Values(Bad{"", "JSON"}, Bad{"{", "JSON"}, Bad{"[]", "object"}, Bad{"\xff\xfe", "JSON"},
                    Bad{R"({"_class_name": "UNet"})", "_class_name"}, Bad{R"({"_class_name": 3})", "_class_name"},
                    Bad{R"({"num_layers": "4"})", "num_layers"}, Bad{R"({"num_layers": 4.0})", "num_layers"},
                    Bad{R"({"num_layers": 0})", "num_layers"}, Bad{R"({"num_layers": null})", "num_layers"},
                    Bad{R"({"num_layers": 18446744073709551615})", "num_layers"}, Bad{R"({"num_layers": 1e400})", ""},
                    Bad{R"({"num_attention_heads": -1})", "num_attention_heads"},
                    Bad{R"({"attention_head_dim": 1023})", "attention_head_dim"},
                    Bad{R"({"num_attention_heads": 1024, "attention_head_dim": 1024})", "131072"},
                    Bad{R"({"patch_size": 2})", "patch_size"}, Bad{R"({"patch_size": [1, 2]})", "patch_size"},
                    Bad{R"({"patch_size": [1, 2, 0]})", "patch_size[2]"},
                    Bad{R"({"patch_size": [1, 2, [[[]]]]})", "patch_size[2]"},
                    Bad{R"({"cross_attn_norm": 1})", "cross_attn_norm"}, Bad{R"({"qk_norm": "l2"})", "qk_norm"},
                    Bad{R"({"eps": -1})", "eps"}, Bad{R"({"eps": "small"})", "eps"},
                    Bad{R"({"freq_dim": 255})", "freq_dim"}, Bad{R"({"added_kv_proj_dim": 5120})", "image_dim"},
                    Bad{R"({"added_kv_proj_dim": 64, "image_dim": 8})", "5120"},
                    Bad{R"({"pos_embed_seq_len": 4})", "image_dim"}));

TEST(Config, DeepNestingNeitherCrashesNorPasses) {
  const std::string deep = R"({"eps": )" + std::string(200000, '[') + std::string(200000, ']') + "}";
  EXPECT_THROW(parse_config(deep, "config.json"), Error);
}

}  // namespace
}  // namespace vmoba::dit
