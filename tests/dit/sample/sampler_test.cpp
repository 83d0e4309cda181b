// SPDX-License-Identifier: Apache-2.0
// Sampling: seeds, guidance, schedule, files, and a clip that opens.
#include "dit/sample/sampler.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <fstream>

#include "dit/sample/quality.hpp"
#include "dit/small_run.hpp"
#include "dit/train/flow.hpp"
#include "dit/train/noise.hpp"
#include "dit/train/trainer.hpp"
#include "io/temporary.hpp"
#include "io/video.hpp"
#include "support/errors.hpp"

namespace vmoba::dit {
namespace {

using test::TemporaryFolder;

WanModel small_model() {
  WanModel model = test::small_model(test::small_video_config(2));
  model->eval();
  return model;
}

SampleOptions small_sample() { return {.latent = {3, 4, 5}, .steps = 4, .shift = 3, .guidance = 1, .seed = 11}; }

at::Tensor context(std::uint64_t number, std::int64_t batch = 1) {
  return normal_tensor({batch, 6, 12}, {2, Purpose::sampling, number});
}

TEST(Sampler, IsEulersMethod) {
  WanModel model = small_model();
  const SampleOptions options = small_sample();
  const at::Tensor text = context(0);
  const Sampled sampled = sample(model, text, {}, options);
  const std::vector<double> times = euler_times(4, 3);
  const torch::NoGradGuard no_grad;
  at::Tensor x = normal_tensor({16, 3, 4, 5}, {11, Purpose::sampling, 0}).unsqueeze(0);
  for (std::size_t i = 0; i < 4; ++i) {
    x = x + (times[i + 1] - times[i]) * model->forward(x, torch::tensor({1000 * times[i]}).to(at::kFloat), text);
  }
  EXPECT_TRUE(at::allclose(sampled.latents, x, 1e-5, 1e-5));
  EXPECT_EQ(sampled.steps.size(), 4U);
}

TEST(Sampler, SeedsDecideAndBatchMatesDoNot) {
  WanModel model = small_model();
  SampleOptions options = small_sample();
  const at::Tensor two = at::cat({context(0), context(1)});
  const at::Tensor both = sample(model, two, {}, options).latents;
  EXPECT_TRUE(at::equal(both, sample(model, two, {}, options).latents));
  options.seed = 12;
  const at::Tensor second = sample(model, context(1), {}, options).latents;
  EXPECT_TRUE(at::allclose(both.slice(0, 1), second, 1e-4, 1e-5));
  EXPECT_FALSE(at::allclose(both.slice(0, 0, 1), sample(model, context(0), {}, options).latents, 1e-2, 1e-2));
}

TEST(Sampler, SameClipForAnyNumberOfThreads) {
  WanModel model = small_model();
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = sample(model, context(0), {}, small_sample()).latents;
  at::set_num_threads(2);
  const at::Tensor two = sample(model, context(0), {}, small_sample()).latents;
  at::set_num_threads(before);
  // torch's matrix products may sum in another order; eight bits of a pixel do not see it.
  EXPECT_TRUE(at::allclose(one, two, 1e-4, 1e-5));
}

TEST(Sampler, GuidanceIsTheWeightedDifference) {
  WanModel model = small_model();
  SampleOptions options = small_sample();
  options.steps = 1;
  const at::Tensor noise = normal_tensor({1, 16, 3, 4, 5}, {11, Purpose::sampling, 0});
  const at::Tensor with = noise - sample(model, context(0), {}, options).latents;
  const at::Tensor without = noise - sample(model, context(1), {}, options).latents;
  options.guidance = 4;
  const at::Tensor guided = noise - sample(model, context(0), context(1), options).latents;
  EXPECT_TRUE(at::allclose(guided, without + 4 * (with - without), 1e-4, 1e-5));
}

TEST(Sampler, ScheduleDecidesDenseStepsAndLayers) {
  WanModel model = small_model();
  AttentionPlan plan;
  plan.dense = false;
  plan.cycle = {{Block{1, full, full}, TopK{1}}};
  plan.schedule.dense_steps = 2;
  plan.schedule.dense_layers = {1};
  model->set_plan(plan);
  const Sampled sampled = sample(model, context(0), {}, small_sample());
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(sampled.steps[i].dense, i < 2) << i;
    ASSERT_EQ(sampled.steps[i].density.size(), 2U);
    EXPECT_NEAR(sampled.steps[i].density[0], i < 2 ? 1.0 : 1.0 / 3, 1e-6) << i;
    EXPECT_EQ(sampled.steps[i].density[1], 1);
  }
}

TEST(Sampler, StopsWhenTold) {
  WanModel model = small_model();
  EXPECT_FALSE(sample(model, context(0), {}, small_sample(), [](const SampleStep& step) {
                 return step.step < 2;
               }).latents.defined());
}

TEST(Sampler, RefusesWhatDoesNotFit) {
  WanModel model = small_model();
  SampleOptions options = small_sample();
  EXPECT_THROW(sample(model, at::zeros({1, 6, 17}), {}, options), Error);
  EXPECT_THROW(sample(model, {}, {}, options), Error);
  options.guidance = 2;
  EXPECT_THROW(sample(model, context(0), {}, options), Error);
  EXPECT_THROW(sample(model, context(0), at::zeros({1, 5, 12}), options), Error);
  options = small_sample();
  options.latent = {3, 0, 5};
  EXPECT_THROW(sample(model, context(0), {}, options), Error);
  options = small_sample();
  options.steps = 0;
  EXPECT_THROW(sample(model, context(0), {}, options), Error);
}

TEST(Sampler, PromptsFromAFile) {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& text) { std::ofstream(folder / "prompts.txt", std::ios::binary) << text; };
  write("# a comment\n\na red ball\r\nzwei B\xc3\xa4lle\n");
  EXPECT_EQ(read_prompts(folder / "prompts.txt"), (std::vector<std::string>{"a red ball", "zwei B\xc3\xa4lle"}));
  write("# nothing\n");
  test::message_of(Error::Kind::file, [&] { read_prompts(folder / "prompts.txt"); });
  write("\xff\xfe");
  test::message_of(Error::Kind::file, [&] { read_prompts(folder / "prompts.txt"); });
  test::message_of(Error::Kind::file, [&] { read_prompts(folder / "missing.txt"); });
}

TEST(Sampler, PathsOfSeveralClips) {
  EXPECT_EQ(numbered_path("a/clip.mp4", 1, 1), "a/clip.mp4");
  EXPECT_EQ(numbered_path("a/clip.mp4", 2, 3), "a/clip-2.mp4");
  EXPECT_EQ(numbered_path("frames/", 2, 3), "frames-2/");
}

TEST(Sampler, FromTrainingToAClipThatOpens) {
  const TemporaryFolder folder;
  TrainOptions options = test::small_run(folder / "run");
  options.steps = 5;
  options.ema = 0.9;
  Trainer(options, {}).run();
  Checkpoint checkpoint = load_checkpoint_for_sampling(options.out);
  EXPECT_EQ(checkpoint.step, 5);
  ASSERT_TRUE(checkpoint.trained.has_value());
  EXPECT_EQ(checkpoint.trained->data.crop, options.data.crop);
  checkpoint.model->set_plan(checkpoint.trained->plan);
  SampleOptions sampling = small_sample();
  sampling.latent = options.data.crop;
  sampling.guidance = 2;
  const at::Tensor prompts = embed_prompts(checkpoint.text, {"a red disc moves", "a blue square"});
  const at::Tensor null = embed_prompts(checkpoint.text, {"", ""});
  const Sampled sampled = sample(checkpoint.model, prompts, null, sampling);
  const auto tokenizer = make_dct_tokenizer();
  const at::Tensor clip = tokenizer->decode(sampled.latents[0]), other = tokenizer->decode(sampled.latents[1]);
  EXPECT_EQ(clip.sizes(), (std::vector<std::int64_t>{9, 40, 56, 3}));
  EXPECT_GT(clip.to(at::kFloat).std().item<double>(), 5);
  EXPECT_FALSE(at::equal(clip, other));
  for (const char* name : {"clip.mp4", "clip.webm", "clip.gif", "frames/"}) {
    write_clip(folder / name, side_by_side(clip, other), 12);
    if (std::string(name) == "frames/") continue;
    const io::Frames back = io::read_video(folder / name);
    EXPECT_EQ(back.frames, 9) << name;
    EXPECT_EQ(back.height, 40) << name;
    EXPECT_EQ(back.width, 116) << name;
    EXPECT_NEAR(back.fps, 12, 0.6) << name;
  }
  // The averaged weights are others.
  Checkpoint averaged = load_checkpoint_for_sampling(options.out, /*averaged=*/true);
  EXPECT_FALSE(at::equal(averaged.model->named_parameters()["proj_out.weight"],
                         checkpoint.model->named_parameters()["proj_out.weight"]));
}

}  // namespace
}  // namespace vmoba::dit
