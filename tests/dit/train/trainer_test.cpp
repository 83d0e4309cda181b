// SPDX-License-Identifier: Apache-2.0
// Training end to end on rendered clips (and on a real one where there is one): falling loss, resume bit for bit,
// refusals.
#include "dit/train/trainer.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "dit/small_run.hpp"
#include "dit/train/checkpoint.hpp"
#include "dit/train/tensors.hpp"
#include "io/temporary.hpp"
#include "io/video.hpp"
#include "support/errors.hpp"

namespace vmoba::dit {
namespace {

namespace fs = std::filesystem;
using test::read_metrics;
using test::small_run;
using test::TemporaryFolder;

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::uint64_t header_bytes(const std::string& safetensors) {
  std::uint64_t size = 0;
  std::memcpy(&size, safetensors.data(), sizeof size);
  return size;
}

void overwrite(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

TrainResult train(const TrainOptions& options, TrainCallbacks callbacks = {}) {
  return Trainer(options, callbacks).run();
}

// Every file of two checkpoints but state.json, byte by byte.
void expect_same_checkpoint(const std::string& a, const std::string& b) {
  std::size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(a)) {
    if (!entry.is_regular_file() || entry.path().filename() == "state.json") continue;
    const std::string name = fs::relative(entry.path(), a).string();
    EXPECT_EQ(bytes_of(entry.path().string()), bytes_of(b + "/" + name)) << name;
    ++files;
  }
  EXPECT_GE(files, 4U);
}

TEST(Trainer, LossFallsAndEverythingIsRecorded) {
  const TemporaryFolder folder;
  TrainOptions options = small_run(folder / "run");
  options.steps = 30;
  options.lr = 3e-3;
  options.validate_every = 10;
  options.checkpoint_every = 10;
  options.keep = 2;
  std::vector<StepReport> reports;
  std::vector<std::string> saved;
  TrainCallbacks callbacks;
  callbacks.step = [&](const StepReport& report) { reports.push_back(report); };
  callbacks.checkpoint = [&](const std::string& path) { saved.push_back(path); };
  const TrainResult result = train(options, callbacks);
  EXPECT_EQ(result.outcome, TrainResult::Outcome::finished);
  EXPECT_EQ(result.step, 30);
  EXPECT_EQ(result.tokens, 3 * 5 * 7);
  EXPECT_LT(result.last_validation, 0.95 * result.first_validation);
  ASSERT_EQ(reports.size(), 30U);
  ASSERT_EQ(saved.size(), 3U);
  EXPECT_EQ(checkpoints(options.out), (std::vector<std::string>{saved[1], saved[2]}));  // keep = 2
  EXPECT_EQ(result.checkpoint, saved[2]);

  const test::Lines lines = read_metrics(options.out);
  ASSERT_EQ(lines.steps.size(), 30U);
  ASSERT_EQ(lines.validations.size(), 4U);  // 0, 10, 20, 30
  double parts_seconds = 0, step_seconds = 0;
  for (std::size_t i = 0; i < 30; ++i) {
    EXPECT_EQ(lines.steps[i]["step"], static_cast<std::int64_t>(i) + 1);
    EXPECT_EQ(lines.steps[i]["loss"], reports[i].loss);
    const auto& seconds = lines.steps[i]["seconds"];
    double sum = 0;
    for (const char* part : {"data", "forward", "backward", "optimizer"}) {
      EXPECT_GT(seconds[part], 0) << part;
      sum += seconds[part].get<double>();
    }
    EXPECT_LE(sum, seconds["step"].get<double>());
    parts_seconds += sum;
    step_seconds += seconds["step"].get<double>();
    ASSERT_EQ(lines.steps[i]["density"].size(), 3U);
    for (const auto& density : lines.steps[i]["density"]) {
      EXPECT_GT(density, 0.1);
      EXPECT_LT(density, 0.9);
    }
    EXPECT_GT(lines.steps[i]["peak_memory"], 1 << 20);
    EXPECT_GT(lines.steps[i]["tokens_per_second"], 0);
  }
  EXPECT_GT(parts_seconds, 0.7 * step_seconds);  // a busy machine may stop us anywhere
  EXPECT_TRUE(fs::exists(options.out + "/run.json"));
  // Nothing temporary is left.
  for (const auto& entry : fs::directory_iterator(options.out + "/checkpoints")) {
    EXPECT_NE(entry.path().filename().string()[0], '.') << entry.path();
  }
  // Fine-tuning starts where this run ended.
  TrainOptions tuned = small_run(folder / "tuned");
  tuned.init = options.out;
  tuned.model = {};  // the checkpoint's model counts
  tuned.steps = 1;
  Trainer trainer(tuned, {});
  EXPECT_EQ(trainer.options().model, options.model);
  EXPECT_EQ(trainer.validation_loss(), result.last_validation);
}

TEST(Trainer, TwentyStepsAreTenAndTenBitForBit) {
  const TemporaryFolder folder;
  TrainOptions whole = small_run(folder / "whole");
  whole.steps = 20;
  whole.ema = 0.9;
  whole.accumulate = 2;
  TrainOptions parts = whole;
  parts.out = folder / "parts";
  const TrainResult at_once = train(whole);
  parts.stop_after = 10;
  const TrainResult first = train(parts);
  EXPECT_EQ(first.outcome, TrainResult::Outcome::interrupted);
  EXPECT_EQ(first.step, 10);
  parts.stop_after = 0;
  parts.resume = true;
  const TrainResult second = train(parts);
  EXPECT_EQ(second.outcome, TrainResult::Outcome::finished);
  EXPECT_EQ(second.step, 20);
  EXPECT_EQ(second.loss, at_once.loss);
  EXPECT_EQ(second.smoothed, at_once.smoothed);
  EXPECT_EQ(second.last_validation, at_once.last_validation);
  expect_same_checkpoint(at_once.checkpoint, second.checkpoint);
  EXPECT_TRUE(fs::exists(second.checkpoint + "/ema/diffusion_pytorch_model.safetensors"));
  const test::Lines a = read_metrics(whole.out), b = read_metrics(parts.out);
  ASSERT_EQ(a.steps.size(), b.steps.size());
  for (std::size_t i = 0; i < a.steps.size(); ++i) {
    EXPECT_EQ(a.steps[i]["loss"], b.steps[i]["loss"]) << i;
    EXPECT_EQ(a.steps[i]["gradient_norm"], b.steps[i]["gradient_norm"]) << i;
    EXPECT_EQ(a.steps[i]["lr"], b.steps[i]["lr"]) << i;
  }
}

TEST(Trainer, RecomputingBlocksChangesNoBit) {
  const TemporaryFolder folder;
  TrainOptions stored = small_run(folder / "stored"), recomputed = small_run(folder / "recomputed");
  recomputed.activation_checkpointing = true;
  expect_same_checkpoint(train(stored).checkpoint, train(recomputed).checkpoint);
}

TEST(Trainer, StopsWhenAskedAndSaves) {
  const TemporaryFolder folder;
  const TrainOptions options = small_run(folder / "run");
  std::int64_t steps = 0;
  TrainCallbacks callbacks;
  callbacks.step = [&](const StepReport& report) { steps = report.step; };
  callbacks.stop = [&] { return steps >= 2; };  // asked during the third step
  const TrainResult result = train(options, callbacks);
  EXPECT_EQ(result.outcome, TrainResult::Outcome::interrupted);
  EXPECT_EQ(result.step, 3);
  EXPECT_EQ(read_state(result.checkpoint).step, 3);
}

TEST(Trainer, ValidationIsTheSameForEverySeedAndForOneWeight) {
  const TemporaryFolder folder;
  TrainOptions options = small_run(folder / "a");
  options.steps = 1;
  train(options);
  // Another seed, the same weights: the same loss. Another policy on the same weights: nearly so.
  TrainOptions other = small_run(folder / "b");
  other.init = options.out;
  other.seed = 99;
  TrainOptions dense = other;
  dense.out = folder / "c";
  dense.plan.dense = true;
  TrainOptions again = other;
  again.out = folder / "d";
  again.seed = 5;
  Trainer one(other, {}), two(again, {}), three(dense, {});
  EXPECT_EQ(one.validation_loss(), two.validation_loss());
  EXPECT_EQ(one.validation_loss(), one.validation_loss());
  EXPECT_NE(one.validation_loss(), three.validation_loss());
}

TEST(Trainer, NotFiniteNamesTheLastGoodCheckpoint) {
  const TemporaryFolder folder;
  TrainOptions options = small_run(folder / "run");
  options.checkpoint_every = 2;
  Trainer* running = nullptr;
  TrainCallbacks callbacks;
  callbacks.step = [&](const StepReport& report) {
    if (report.step != 3) return;
    const torch::NoGradGuard no_grad;
    running->model()->named_parameters()["blocks.1.ffn.net.2.weight"].fill_(std::nan(""));
  };
  Trainer trainer(options, callbacks);
  running = &trainer;
  const TrainResult result = trainer.run();
  EXPECT_EQ(result.outcome, TrainResult::Outcome::diverged);
  EXPECT_EQ(result.step, 3);
  EXPECT_NE(result.message.find("step 4"), std::string::npos) << result.message;
  EXPECT_NE(result.message.find("step-00000002"), std::string::npos) << result.message;
  EXPECT_EQ(checkpoints(options.out).size(), 1U);  // the bad weights were not saved
}

TEST(Trainer, BatchOfTwoIsTheMeanOfItsSamples) {
  // batch 2 and two accumulated passes of one take the same samples with the same noise.
  const TemporaryFolder folder;
  TrainOptions together = small_run(folder / "a"), apart = small_run(folder / "b");
  apart.batch = 1;
  apart.accumulate = 2;
  together.steps = apart.steps = 3;
  train(together);
  train(apart);
  const test::Lines a = read_metrics(together.out), b = read_metrics(apart.out);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(a.steps[i]["loss"].get<double>(), b.steps[i]["loss"].get<double>(), 1e-5) << i;
    EXPECT_NEAR(a.steps[i]["gradient_norm"].get<double>(), b.steps[i]["gradient_norm"].get<double>(), 1e-4) << i;
  }
}

TEST(Trainer, Bf16TrainsCloseToFp32) {
  const TemporaryFolder folder;
  TrainOptions full = small_run(folder / "a"), half = small_run(folder / "b");
  full.steps = half.steps = 3;
  half.bf16 = true;
  const TrainResult a = train(full), b = train(half);
  EXPECT_NEAR(a.loss, b.loss, 0.02 * a.loss);
  const test::Lines one = read_metrics(full.out), two = read_metrics(half.out);
  EXPECT_NE(one.steps[1]["gradient_norm"], two.steps[1]["gradient_norm"]);  // bf16 has an effect
}

class BrokenCheckpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    options_ = small_run(folder_ / "run");
    options_.steps = 2;
    options_.stop_after = 1;
    options_.ema = 0.9;
    checkpoint_ = train(options_).checkpoint;
    options_.resume = true;
    options_.stop_after = 0;
  }
  std::string refused(Error::Kind kind) {
    return test::message_of(kind, [&] { Trainer(options_, {}); });
  }
  TemporaryFolder folder_;
  TrainOptions options_;
  std::string checkpoint_;
};

TEST_F(BrokenCheckpoint, TruncatedFilesAreNamed) {
  for (const char* name : {"diffusion_pytorch_model.safetensors", "optimizer.safetensors", "text_embedding.safetensors",
                           "ema/diffusion_pytorch_model.safetensors", "config.json", "state.json"}) {
    const std::string path = checkpoint_ + "/" + name, whole = bytes_of(path);
    for (const std::size_t length : {whole.size() / 2, whole.size() - 3, std::size_t{0}}) {
      if (std::string(name) == "state.json" && length == whole.size() - 3)
        continue;                                        // the brace and the newline: see below
      if (std::string(name) == "config.json") continue;  // state.json holds the same config
      overwrite(path, whole.substr(0, length));
      const std::string message = refused(Error::Kind::file);
      EXPECT_NE(message.find(fs::path(name).filename().string()), std::string::npos)
          << name << " " << length << ": " << message;
    }
    overwrite(path, whole);
  }
  EXPECT_EQ(train(options_).step, 2);
}

TEST_F(BrokenCheckpoint, WrongShapesAreNamedWithBoth) {
  const std::string path = checkpoint_ + "/optimizer.safetensors";
  NamedTensors tensors;
  {
    const io::SafetensorsFile file(path);
    for (const auto& [name, info] : file.tensors()) tensors.emplace_back(name, read_tensor(file, name));
  }
  for (auto& [name, tensor] : tensors) {
    if (name == "proj_out.bias.exp_avg") tensor = at::zeros({3, 5});
  }
  save_tensors(path, tensors);
  const std::string message = refused(Error::Kind::file);
  EXPECT_NE(message.find("proj_out.bias.exp_avg"), std::string::npos) << message;
  EXPECT_NE(message.find("[3, 5]"), std::string::npos) << message;
  EXPECT_NE(message.find("[16]"), std::string::npos) << message;
}

TEST_F(BrokenCheckpoint, ValuesThatAreNotFiniteAreNamed) {
  for (const char* name : {"diffusion_pytorch_model.safetensors", "optimizer.safetensors", "text_embedding.safetensors",
                           "ema/diffusion_pytorch_model.safetensors", "ema/text_embedding.safetensors"}) {
    const std::string path = checkpoint_ + "/" + name, whole = bytes_of(path);
    std::string poisoned = whole, tensor;
    {
      const io::SafetensorsFile file(path);
      for (const auto& [found, info] : file.tensors())
        if (info.end == whole.size() - 8 - header_bytes(whole)) tensor = found;
    }
    poisoned.replace(poisoned.size() - 4, 4, std::string("\0\0\x80\x7f", 4));  // the last number: infinity
    overwrite(path, poisoned);
    const std::string message = refused(Error::Kind::file);
    EXPECT_NE(message.find(checkpoint_), std::string::npos) << message;
    EXPECT_NE(message.find("not finite in tensor " + tensor), std::string::npos) << name << ": " << message;
    overwrite(path, whole);
  }
  EXPECT_EQ(train(options_).step, 2);
}

TEST_F(BrokenCheckpoint, ForeignStateAndOtherRunsAreRefused) {
  const std::string path = checkpoint_ + "/state.json", whole = bytes_of(path);
  overwrite(path, "{\"kind\": \"something else\"}");
  EXPECT_NE(refused(Error::Kind::file).find("state.json"), std::string::npos);
  overwrite(path, whole);
  options_.lr *= 2;
  EXPECT_NE(refused(Error::Kind::argument).find("lr"), std::string::npos);
  options_.lr /= 2;
  options_.data.seed = 77;
  EXPECT_NE(refused(Error::Kind::argument).find("data-seed"), std::string::npos);
}

TEST_F(BrokenCheckpoint, AHalfWrittenOneIsOverlooked) {
  // What a crash leaves: a temporary folder, and a folder of a later step without state.json.
  fs::create_directories(folder_ / "run/checkpoints/.step-00000002.tmp-1");
  fs::create_directories(folder_ / "run/checkpoints/step-00000002");
  EXPECT_EQ(checkpoints(options_.out), std::vector<std::string>{checkpoint_});
  EXPECT_EQ(train(options_).step, 2);
}

TEST(Trainer, RefusesFoldersThatDoNotFit) {
  const TemporaryFolder folder;
  TrainOptions options = small_run(folder / "run");
  options.resume = true;
  EXPECT_NE(test::message_of(Error::Kind::file, [&] { Trainer(options, {}); }).find("no checkpoint"),
            std::string::npos);
  options.resume = false;
  options.steps = 1;
  train(options);
  EXPECT_NE(test::message_of(Error::Kind::argument, [&] { Trainer(options, {}); }).find("--resume"), std::string::npos);
  options.out = folder / "other";
  options.init = folder / "missing";
  EXPECT_NE(test::message_of(Error::Kind::file, [&] { Trainer(options, {}); }).find("missing"), std::string::npos);
  overwrite(folder / "file", "x");
  options.init = "";
  options.out = folder / "file";
  test::message_of(Error::Kind::file, [&] { Trainer(options, {}); });
}

TEST(Trainer, TrainsOnVideoFiles) {
  const TemporaryFolder folder;
  const char* const given = std::getenv("VMOBA_CLIPS");
  std::string source = given != nullptr ? given : std::string(VMOBA_SOURCE_DIR) + "/../shared/data/videos";
  fs::create_directories(folder / "clips");
  std::vector<std::string> real;
  if (fs::is_directory(source)) real = io::video_files(source);
  if (!real.empty()) {
    fs::copy_file(real.front(), folder / ("clips/" + fs::path(real.front()).filename().string()));
  } else {
    const RenderedClip clip = render_clip(3, 90, 96, 128);
    io::Frames frames{.frames = clip.rgb.size(0), .height = clip.rgb.size(1), .width = clip.rgb.size(2), .fps = 12};
    const at::Tensor rgb = clip.rgb.contiguous();
    frames.rgb.assign(rgb.data_ptr<std::uint8_t>(), rgb.data_ptr<std::uint8_t>() + rgb.numel());
    io::write_video(folder / "clips/rendered.mp4", frames);
  }
  TrainOptions options = small_run(folder / "run");
  options.data.directory = folder / "clips";
  options.steps = 20;
  options.lr = 3e-3;
  options.validate_every = 20;
  const TrainResult result = train(options);
  EXPECT_EQ(result.step, 20);
  EXPECT_LT(result.last_validation, 0.95 * result.first_validation);
  // Latents lie with the run; nothing is written beside the videos.
  EXPECT_TRUE(fs::exists(folder / "run/latents/manifest.json"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "clips"), {}), 1);
  // A cache that cannot be written costs one line.
  TrainOptions other = options;
  other.out = folder / "other";
  other.data.cache = "/proc/vmoba-latents";
  other.steps = 1;
  std::vector<std::string> lines;
  TrainCallbacks callbacks;
  callbacks.log = [&](const std::string& line) { lines.push_back(line); };
  EXPECT_EQ(train(other, callbacks).step, 1);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("only: /proc/vmoba-latents"), std::string::npos) << lines[0];
}

}  // namespace
}  // namespace vmoba::dit
