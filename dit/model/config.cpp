// SPDX-License-Identifier: Apache-2.0
// Reading and writing config.json; every byte of it is treated as hostile. Knows neither torch nor files.
#include "dit/model/config.hpp"

#include <cmath>
#include <initializer_list>

#include "io/json.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

using nlohmann::json;

constexpr const char* class_name = "WanTransformer3DModel";

// At most 60 characters of a value, for messages. Arrays and objects are not printed: dump() recurses as deep as they
// nest.
std::string shown(const json& value) {
  if (value.is_structured()) {
    return std::string(value.is_array() ? "an array" : "an object") + " of " + std::to_string(value.size());
  }
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

struct Reader {
  const json& object;
  const std::string& name;  // of the file

  [[noreturn]] void refuse(const std::string& field, const json& value, const std::string& rule) const {
    throw_file(name, "field " + field + " = " + shown(value) + " " + rule,
               "correct the field, or copy config.json again from the model's source");
  }

  // The field, or null when it is absent.
  const json* find(const char* field) const {
    const auto found = object.find(field);
    return found == object.end() ? nullptr : &*found;
  }

  std::int64_t integer(const std::string& field, const json& value, std::int64_t least, std::int64_t most) const {
    const std::string rule = "must be a whole number of " + std::to_string(least) + ".." + std::to_string(most);
    if (!value.is_number_integer()) refuse(field, value, rule);
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(most)) {
      refuse(field, value, rule);
    }
    const auto number = value.get<std::int64_t>();
    if (number < least || number > most) refuse(field, value, rule);
    return number;
  }

  void read(const char* field, std::int64_t& target, std::int64_t least, std::int64_t most) const {
    if (const json* value = find(field)) target = integer(field, *value, least, most);
  }
  void read(const char* field, std::optional<std::int64_t>& target, std::int64_t least, std::int64_t most) const {
    const json* value = find(field);
    if (value == nullptr) return;
    if (value->is_null()) {
      target.reset();
    } else {
      target = integer(field, *value, least, most);
    }
  }
};

void read_fields(const Reader& reader, Config& config) {
  // Upper bounds are far beyond any model and keep every product of sizes inside 64 bits.
  if (const json* value = reader.find("patch_size")) {
    if (!value->is_array() || value->size() != 3) reader.refuse("patch_size", *value, "must be three whole numbers");
    for (std::size_t axis = 0; axis < 3; ++axis) {
      config.patch_size[axis] = reader.integer("patch_size[" + std::to_string(axis) + "]", (*value)[axis], 1, 64);
    }
  }
  reader.read("num_attention_heads", config.num_attention_heads, 1, 1024);
  reader.read("attention_head_dim", config.attention_head_dim, 2, 1024);
  reader.read("in_channels", config.in_channels, 1, 4096);
  // diffusers: "out_channels or in_channels".
  std::optional<std::int64_t> out_channels = config.out_channels;
  reader.read("out_channels", out_channels, 1, 4096);
  config.out_channels = out_channels.value_or(config.in_channels);
  reader.read("text_dim", config.text_dim, 1, 1 << 17);
  reader.read("freq_dim", config.freq_dim, 2, 1 << 17);
  reader.read("ffn_dim", config.ffn_dim, 1, 1 << 20);
  reader.read("num_layers", config.num_layers, 1, 1000);
  reader.read("image_dim", config.image_dim, 1, 1 << 17);
  reader.read("added_kv_proj_dim", config.added_kv_proj_dim, 1, 1 << 20);
  reader.read("rope_max_seq_len", config.rope_max_seq_len, 1, 1 << 20);
  reader.read("pos_embed_seq_len", config.pos_embed_seq_len, 1, 1 << 20);
  if (const json* value = reader.find("cross_attn_norm")) {
    if (!value->is_boolean()) reader.refuse("cross_attn_norm", *value, "must be true or false");
    config.cross_attn_norm = value->get<bool>();
  }
  if (const json* value = reader.find("qk_norm")) {
    if (value->is_null()) {
      config.qk_norm.reset();
    } else if (*value == "rms_norm_across_heads") {
      config.qk_norm = "rms_norm_across_heads";
    } else {
      reader.refuse("qk_norm", *value, "must be \"rms_norm_across_heads\" or null, which the model treats alike");
    }
  }
  if (const json* value = reader.find("eps")) {
    if (!value->is_number()) reader.refuse("eps", *value, "must be a number");
    config.eps = value->get<double>();
    if (!(config.eps >= 0 && config.eps <= 1)) reader.refuse("eps", *value, "must lie in 0..1");
  }
}

void check_together(const Reader& reader, const Config& config) {
  if (config.attention_head_dim % 2 != 0) {
    reader.refuse("attention_head_dim", config.attention_head_dim, "must be even: RoPE turns pairs of numbers");
  }
  if (config.freq_dim % 2 != 0) {
    reader.refuse("freq_dim", config.freq_dim, "must be even: half of it are sines, half cosines");
  }
  if (config.width() > 1 << 17) {
    reader.refuse(
        "num_attention_heads", config.num_attention_heads,
        "times attention_head_dim = " + std::to_string(config.attention_head_dim) + " must be at most 131072");
  }
  if (config.added_kv_proj_dim && *config.added_kv_proj_dim != config.width()) {
    reader.refuse("added_kv_proj_dim", *config.added_kv_proj_dim,
                  "must equal num_attention_heads * attention_head_dim = " + std::to_string(config.width()) +
                      ", the width of the image embedding it projects");
  }
  if (config.added_kv_proj_dim && !config.image_dim) {
    reader.refuse("added_kv_proj_dim", *config.added_kv_proj_dim, "needs image_dim, the width of the image features");
  }
  if (config.pos_embed_seq_len && !config.image_dim) {
    reader.refuse("pos_embed_seq_len", *config.pos_embed_seq_len, "needs image_dim, the width of the image features");
  }
}

}  // namespace

Config parse_config(const std::string& text, const std::string& name) {
  const json object = io::parse_json(text);
  if (object.is_discarded()) throw_file(name, "is not JSON", "copy config.json again from the model's source");
  if (!object.is_object()) throw_file(name, "holds no JSON object", "copy config.json again from the model's source");
  const Reader reader{object, name};
  if (const json* value = reader.find("_class_name"); value != nullptr && *value != class_name) {
    throw_file(name, "field _class_name = " + shown(*value) + " names another model",
               std::string("use a folder of a ") + class_name);
  }
  Config config;
  read_fields(reader, config);
  check_together(reader, config);
  return config;
}

std::string to_json(const Config& config) {
  const auto optional = [](const auto& value) { return value ? json(*value) : json(nullptr); };
  const json object{
      {"_class_name", class_name},
      {"_diffusers_version", "0.42.1"},
      {"patch_size", config.patch_size},
      {"num_attention_heads", config.num_attention_heads},
      {"attention_head_dim", config.attention_head_dim},
      {"in_channels", config.in_channels},
      {"out_channels", config.out_channels},
      {"text_dim", config.text_dim},
      {"freq_dim", config.freq_dim},
      {"ffn_dim", config.ffn_dim},
      {"num_layers", config.num_layers},
      {"cross_attn_norm", config.cross_attn_norm},
      {"qk_norm", optional(config.qk_norm)},
      {"eps", config.eps},
      {"image_dim", optional(config.image_dim)},
      {"added_kv_proj_dim", optional(config.added_kv_proj_dim)},
      {"rope_max_seq_len", config.rope_max_seq_len},
      {"pos_embed_seq_len", optional(config.pos_embed_seq_len)},
  };
  return object.dump(2) + "\n";
}

}  // namespace vmoba::dit
