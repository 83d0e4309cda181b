// SPDX-License-Identifier: Apache-2.0
// The parts of training: text embedding, optimizer, options.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <fstream>

#include "dit/train/optimizer.hpp"
#include "dit/train/options.hpp"
#include "dit/train/text.hpp"
#include "io/temporary.hpp"
#include "support/errors.hpp"

namespace vmoba::dit {
namespace {

at::Tensor ids_of(const std::string& text, std::int64_t length) {
  at::Tensor ids = at::full({1, length}, padding_id, at::kLong);
  for (std::size_t i = 0; i < text.size(); ++i)
    ids[0][static_cast<std::int64_t>(i)] = static_cast<std::int64_t>(text[i]);
  return ids;
}

TEST(TextEmbedding, PaddingIsZeroAndNeverLooksIn) {
  TextEmbedding embedding(12, 8, 3);
  const at::Tensor text = embedding->forward(ids_of("hello", 12));
  EXPECT_EQ(text.sizes(), (std::vector<std::int64_t>{1, 12, 8}));
  EXPECT_EQ(text.slice(1, 5).abs().max().item<float>(), 0);
  EXPECT_GT(text.slice(1, 0, 5).abs().min().item<float>(), 0);
  EXPECT_EQ(embedding->forward(ids_of("", 12)).abs().max().item<float>(), 0);
  // Order and neighbours matter.
  EXPECT_FALSE(at::allclose(text[0][0], embedding->forward(ids_of("hallo", 12))[0][0]));
  // The padding's own vector takes no part: the result cannot change with it, nor a gradient reach it.
  text.sum().backward();
  for (const auto& item : embedding->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    if (item.key() == "embedding") {
      EXPECT_EQ(item.value().grad()[padding_id].abs().max().item<float>(), 0);
    }
  }
  test::expect_argument_error("text_ids", "[1, 11]", "[B, 12]", "caption_ids",
                              [&] { embedding->forward(ids_of("a", 11)); });
}

TEST(TextEmbedding, SurvivesItsFile) {
  const test::TemporaryFolder folder;
  TextEmbedding embedding(6, 4, 3);
  save_text_embedding(embedding, folder.path());
  EXPECT_TRUE(has_text_embedding(folder.path()));
  TextEmbedding loaded = load_text_embedding(folder.path());
  EXPECT_TRUE(at::equal(loaded->forward(ids_of("abc", 6)), embedding->forward(ids_of("abc", 6))));
  TextEmbedding other(7, 4, 3);
  const std::string message =
      test::message_of(Error::Kind::file, [&] { load_text_embedding_into(other, folder.path()); });
  EXPECT_NE(message.find("position"), std::string::npos) << message;
  EXPECT_NE(message.find("[6, 4]"), std::string::npos) << message;
  EXPECT_NE(message.find("[7, 4]"), std::string::npos) << message;
}

NamedTensors two_weights() {
  return {{"a.weight", torch::tensor({{0.5, -1.0}, {2.0, 0.25}}, torch::requires_grad().dtype(at::kFloat))},
          {"a.bias", torch::tensor({0.1, -0.2}, torch::requires_grad().dtype(at::kFloat))}};
}

TEST(AdamW, IsTheTextbookUpdate) {
  NamedTensors weights = two_weights();
  AdamW optimizer(weights, {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1});
  std::vector<double> value{0.5, -1.0, 2.0, 0.25, 0.1, -0.2}, m(6, 0), v(6, 0);
  for (int step = 1; step <= 5; ++step) {
    optimizer.zero_grad();
    (weights[0].second.square().sum() * (0.3 * step) + (weights[1].second * 3).sin().sum()).backward();
    for (std::size_t i = 0; i < 6; ++i) {
      const bool matrix = i < 4;
      const double g = matrix ? 0.6 * step * value[i] : 3 * std::cos(3 * value[i]);
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      if (matrix) value[i] -= 0.01 * 0.1 * value[i];
      value[i] -= 0.01 * (m[i] / (1 - std::pow(0.9, step))) / (std::sqrt(v[i] / (1 - std::pow(0.95, step))) + 1e-8);
    }
    optimizer.step(0.01);
  }
  const at::Tensor all = at::cat({weights[0].second.reshape({-1}), weights[1].second});
  for (std::size_t i = 0; i < 6; ++i)
    EXPECT_NEAR(all[static_cast<std::int64_t>(i)].item<double>(), value[i], 2e-6) << i;
  EXPECT_EQ(optimizer.steps(), 5);
}

TEST(AdamW, ClipsByTheNormOfAllGradients) {
  NamedTensors weights = two_weights();
  (weights[0].second * 3).sum().backward();
  (weights[1].second * 4).sum().backward();
  const double norm = std::sqrt(4 * 9 + 2 * 16.0);
  EXPECT_NEAR(clip_gradients(weights, 0), norm, 1e-5);
  EXPECT_NEAR(weights[0].second.grad()[0][0].item<double>(), 3, 1e-6);
  EXPECT_NEAR(clip_gradients(weights, 1), norm, 1e-5);
  EXPECT_NEAR(weights[0].second.grad()[0][0].item<double>(), 3 / norm, 1e-6);
  EXPECT_NEAR(clip_gradients(weights, 0), 1, 1e-5);
}

TEST(LearningRate, WarmsUpThenFalls) {
  EXPECT_DOUBLE_EQ(learning_rate(1, "cosine", 4, 0, 100), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(1, "cosine", 4, 3, 100), 0.8);
  EXPECT_DOUBLE_EQ(learning_rate(1, "cosine", 4, 4, 100), 1);
  EXPECT_NEAR(learning_rate(1, "cosine", 4, 99, 100), 0.1, 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate(1, "constant", 4, 99, 100), 1);
  EXPECT_DOUBLE_EQ(learning_rate(1, "cosine", 0, 0, 1), 1);
}

TEST(AveragedWeights, FollowAndSwap) {
  NamedTensors weights = two_weights();
  AveragedWeights averages(weights, 0.5);
  const at::Tensor first = weights[1].second.detach().clone();
  {
    const torch::NoGradGuard no_grad;
    weights[1].second.add_(1);
  }
  averages.update(1000);
  EXPECT_TRUE(at::allclose(averages.tensors()[1].second, first + 0.5));
  averages.swap();
  EXPECT_TRUE(at::allclose(weights[1].second, first + 0.5));
  averages.swap();
  EXPECT_TRUE(at::allclose(weights[1].second, first + 1));
}

TEST(TrainOptions, SurviveTheirRecord) {
  TrainOptions options;
  options.out = "somewhere";
  options.model.num_layers = 7;
  options.model.patch_size = {1, 2, 2};
  options.data.crop = {3, 4, 6};
  options.lr = 0.1 + 0.2;
  options.seed = (1ull << 63) + 5;
  options.bf16 = true;
  options.plan.dense = false;
  options.plan.cycle = {{Block{3, full, full}, TopK{2}}, {vmoba::Run{17}, Threshold{0.3, Scope::query}}};
  const TrainOptions back = parse_options(options_json(options), "run.json");
  EXPECT_EQ(options_json(back), options_json(options));
  EXPECT_EQ(back.lr, options.lr);
  EXPECT_EQ(back.seed, options.seed);
  EXPECT_EQ(back.model, options.model);
  EXPECT_EQ(back.plan.cycle, options.plan.cycle);
}

TEST(TrainOptions, RefuseABrokenRecord) {
  for (const char* text :
       {"", "{", "[]", "{\"steps\": \"many\"}", "{\"nonsense\": 1}", "{\"crop\": [1]}", "{\"plan\": 3}"}) {
    const std::string message = test::message_of(Error::Kind::file, [&] { parse_options(text, "run.json"); });
    EXPECT_NE(message.find("run.json"), std::string::npos) << message;
  }
}

TEST(TrainOptions, AContinuedRunIsTheSameRun) {
  TrainOptions saved, asked;
  asked.steps = 999;
  asked.threads = 3;
  check_same_run(saved, asked);
  asked.lr = 5e-4;
  test::expect_argument_error("lr", "0.0005", "0.001", "new run", [&] { check_same_run(saved, asked); });
  asked = saved;
  asked.plan.dense = false;
  asked.plan.cycle = {{Block{1, 1, 1}, Threshold{}}};
  EXPECT_THROW(check_same_run(saved, asked), Error);
  saved = asked;
  saved.plan.schedule.dense_layers = {1, 2};  // of which automatic min_tokens may have chosen some
  asked.plan.schedule.min_tokens = Schedule::automatic;
  for (const std::set<std::int64_t>& layers : {std::set<std::int64_t>{}, {2}, {1, 2}}) {
    asked.plan.schedule.dense_layers = layers;
    check_same_run(saved, asked);
  }
  asked.plan.schedule.dense_layers = {0, 1};
  test::expect_argument_error("dense-layers", "[0,1]", "[1,2]", "new run", [&] { check_same_run(saved, asked); });
}

TEST(TrainOptions, EveryWrongValueIsOneSentence) {
  const auto refused = [](const std::string& name, auto&& change) {
    TrainOptions options;
    options.out = "x";
    check_options(options);
    change(options);
    try {
      check_options(options);
      ADD_FAILURE() << name << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::argument);
      EXPECT_EQ(error.argument(), name);
      EXPECT_FALSE(error.way_out().empty());
    }
  };
  refused("out", [](TrainOptions& o) { o.out = ""; });
  refused("layers", [](TrainOptions& o) { o.model.num_layers = 0; });
  refused("head-dim", [](TrainOptions& o) { o.model.attention_head_dim = 12; });
  refused("crop", [](TrainOptions& o) { o.model.patch_size = {1, 2, 3}; });
  refused("steps", [](TrainOptions& o) { o.steps = 0; });
  refused("batch", [](TrainOptions& o) { o.batch = -1; });
  refused("lr", [](TrainOptions& o) { o.lr = std::nan(""); });
  refused("lr-schedule", [](TrainOptions& o) { o.lr_schedule = "linear"; });
  refused("beta2", [](TrainOptions& o) { o.beta2 = 1; });
  refused("caption-dropout", [](TrainOptions& o) { o.caption_dropout = 1.5; });
  refused("times", [](TrainOptions& o) { o.times = "never"; });
  refused("shift", [](TrainOptions& o) { o.shift = 0; });
  refused("ema", [](TrainOptions& o) { o.ema = 1; });
  refused("keep", [](TrainOptions& o) { o.keep = 0; });
  refused("threads", [](TrainOptions& o) { o.threads = -1; });
  refused("sequence-parallel", [](TrainOptions& o) { o.sequence_parallel = 0; });
}

}  // namespace
}  // namespace vmoba::dit
