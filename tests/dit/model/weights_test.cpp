// SPDX-License-Identifier: Apache-2.0
// Loading and saving: what is wrong is named, and a refused load leaves the model as it was.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "dit/model/model.hpp"
#include "dit/small_model.hpp"
#include "io/file.hpp"
#include "io/safetensors.hpp"
#include "tests/io/temporary.hpp"

namespace vmoba::dit {
namespace {

using test::message_of;
using test::TemporaryFolder;

const std::string weights_file = "diffusion_pytorch_model.safetensors";
const std::string index_file = weights_file + ".index.json";

std::string file_message(const std::function<void()>& call) { return message_of(Error::Kind::file, call); }
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Writes the model's tensors after change(name, tensor) had its way with each; an undefined tensor is left out.
void write(const WanModel& model, const TemporaryFolder& folder,
           const std::function<at::Tensor(const std::string&, const at::Tensor&)>& change,
           const std::string& extra = "") {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> kept;
  std::vector<io::TensorData> tensors;
  const auto add = [&](const std::string& name, const at::Tensor& value, const std::string& type) {
    kept.push_back(value.contiguous());
    tensors.push_back({name, type, value.sizes().vec(), kept.back().const_data_ptr()});
  };
  for (const auto& entry : model->named_parameters()) {
    const at::Tensor value = change(entry.key(), entry.value().detach());
    if (!value.defined()) continue;
    add(entry.key(), value,
        value.scalar_type() == at::kLong   ? "I64"
        : value.scalar_type() == at::kHalf ? "F16"
                                           : "F32");
  }
  if (!extra.empty()) add(extra, torch::zeros({2}), "F32");
  io::write_file(folder / "config.json", to_json(model->config()));
  io::write_safetensors(folder / weights_file, tensors);
}

TEST(Weights, SavedAndLoadedAreTheSameBits) {
  const TemporaryFolder folder;
  const WanModel model = test::small_model();
  for (const std::uint64_t shard : {std::uint64_t{10'000'000'000}, std::uint64_t{30'000}}) {
    save_model(model, folder.path(), shard);
    EXPECT_EQ(std::filesystem::exists(folder / index_file), shard == 30'000);
    const WanModel back = load_model(folder.path());
    EXPECT_EQ(back->config(), model->config());
    const auto parameters = back->named_parameters();
    for (const auto& entry : model->named_parameters()) {
      EXPECT_TRUE(at::equal(entry.value(), parameters[entry.key()])) << entry.key();
    }
  }
}

TEST(Weights, HalfPrecisionIsConvertedAndNormAddedQIsPassedOver) {
  const TemporaryFolder folder;
  const WanModel model = test::small_model();
  write(
      model, folder, [](const std::string&, const at::Tensor& t) { return t.to(at::kHalf); },
      "blocks.0.attn2.norm_added_q.weight");
  const auto parameters = load_model(folder.path())->named_parameters();
  for (const auto& entry : model->named_parameters()) {
    EXPECT_TRUE(at::equal(entry.value().to(at::kHalf).to(at::kFloat), parameters[entry.key()])) << entry.key();
  }
}

TEST(Weights, MissingUnexpectedAndMisshapenTensorsAreNamedAndNothingIsLoaded) {
  const TemporaryFolder folder;
  const WanModel model = test::small_model();
  WanModel target = test::small_model(test::small_config(), 9);
  const at::Tensor before = target->named_parameters()["scale_shift_table"].detach().clone();
  const auto refused = [&] { return file_message([&] { load_weights(target, folder.path()); }); };

  write(
      model, folder,
      [](const std::string& name, const at::Tensor& t) {
        return name == "blocks.1.attn2.to_k.bias" ? at::Tensor() : t;
      },
      "surplus.weight");
  std::string message = refused();
  EXPECT_TRUE(has(message, "blocks.1.attn2.to_k.bias")) << message;
  EXPECT_TRUE(has(message, "surplus.weight")) << message;

  write(model, folder, [](const std::string& name, const at::Tensor& t) {
    return name == "blocks.2.ffn.net.0.proj.weight" ? t.t() : t;
  });
  message = refused();
  EXPECT_TRUE(has(message, "blocks.2.ffn.net.0.proj.weight")) << message;
  EXPECT_TRUE(has(message, "[48, 32]")) << message;
  EXPECT_TRUE(has(message, "[32, 48]")) << message;

  write(model, folder,
        [](const std::string& name, const at::Tensor& t) { return name == "proj_out.bias" ? t.to(at::kLong) : t; });
  message = refused();
  EXPECT_TRUE(has(message, "proj_out.bias")) << message;
  EXPECT_TRUE(has(message, "I64")) << message;
  EXPECT_TRUE(at::equal(before, target->named_parameters()["scale_shift_table"]));
}

TEST(Weights, FoldersThatHoldNoModelAreRefusedByName) {
  const TemporaryFolder folder;
  EXPECT_TRUE(has(file_message([&] { load_model(folder / "nowhere"); }), "nowhere"));
  EXPECT_TRUE(has(file_message([&] { load_model(folder.path()); }), "config.json"));
  io::write_file(folder / "config.json", to_json(test::small_config()));
  EXPECT_TRUE(has(file_message([&] { load_model(folder.path()); }), weights_file));
  io::write_file(folder / weights_file, "not a safetensors file at all");
  EXPECT_TRUE(has(file_message([&] { load_model(folder.path()); }), weights_file));
}

TEST(Weights, AHugeConfigBesideSmallWeightsIsRefusedBeforeAnythingIsAllocated) {
  const TemporaryFolder folder;
  save_model(test::small_model(), folder.path());
  Config huge = test::small_config(1000);
  huge.num_attention_heads = 1024;
  huge.attention_head_dim = 128;
  huge.ffn_dim = 1 << 20;
  io::write_file(folder / "config.json", to_json(huge));
  EXPECT_TRUE(has(file_message([&] { load_model(folder.path()); }), "config.json"));
}

TEST(Weights, HostileIndexesAreRefused) {
  const TemporaryFolder folder;
  save_model(test::small_model(), folder.path(), 30'000);
  const std::string good = io::read_file(folder / index_file);
  const auto refused = [&](const std::string& text) {
    io::write_file(folder / index_file, text);
    return file_message([&] { load_model(folder.path()); });
  };
  for (const char* text :
       {"", "[]", "{}", R"({"weight_map": 3})", R"({"weight_map": {}})", R"({"weight_map": {"a": 3}})",
        R"({"weight_map": {"a": "../b.safetensors"}})", R"({"weight_map": {"a": "/etc/passwd"}})",
        R"({"weight_map": {"a": "a\u0000b"}})", R"({"weight_map": {"a": ".."}})"}) {
    EXPECT_TRUE(has(refused(text), index_file)) << text;
  }
  EXPECT_TRUE(has(refused(R"({"weight_map": {"a": "absent.safetensors"}})"), "absent.safetensors"));
  // A tensor that its shard does not have.
  std::string moved = good;
  const std::size_t at = moved.find("\"blocks.0.attn1.to_q.weight\"");
  ASSERT_NE(at, moved.npos);
  moved.replace(at, 28, "\"blocks.0.attn1.to_z.weight\"");
  EXPECT_TRUE(has(refused(moved), "blocks.0.attn1.to_z.weight"));
}

TEST(Weights, ASaveThatCannotBeWrittenSaysSoAndKeepsWhatWasThere) {
  const TemporaryFolder folder;
  io::write_file(folder / "file", "x");
  EXPECT_TRUE(has(file_message([&] { save_model(test::small_model(), folder / "file"); }), "file"));
  EXPECT_EQ(io::read_file(folder / "file"), "x");
}

}  // namespace
}  // namespace vmoba::dit
