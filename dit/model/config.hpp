// SPDX-License-Identifier: Apache-2.0
// The config.json of diffusers' WanTransformer3DModel.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace vmoba::dit {

// Fields, names and defaults as in diffusers 0.42.
struct Config {
  std::array<std::int64_t, 3> patch_size{1, 2, 2};
  std::int64_t num_attention_heads = 40;
  std::int64_t attention_head_dim = 128;
  std::int64_t in_channels = 16;
  std::int64_t out_channels = 16;
  std::int64_t text_dim = 4096;
  std::int64_t freq_dim = 256;
  std::int64_t ffn_dim = 13824;
  std::int64_t num_layers = 40;
  bool cross_attn_norm = true;
  std::optional<std::string> qk_norm = "rms_norm_across_heads";
  double eps = 1e-6;
  std::optional<std::int64_t> image_dim{};
  std::optional<std::int64_t> added_kv_proj_dim{};
  std::int64_t rope_max_seq_len = 1024;
  std::optional<std::int64_t> pos_embed_seq_len{};

  std::int64_t width() const { return num_attention_heads * attention_head_dim; }
  bool operator==(const Config&) const = default;
};

// Both throw vmoba::Error(kind file) naming the path and the field when it is missing where required, of the wrong type
// or absurd.
Config read_config(const std::string& path);  // a config.json
Config parse_config(const std::string& json, const std::string& name);
std::string to_json(const Config& config);  // as diffusers writes it

}  // namespace vmoba::dit
