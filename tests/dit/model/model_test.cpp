// SPDX-License-Identifier: Apache-2.0
// The model: input checks, effects of each field of the schedule, probes, sequence parallelism. Numbers:
// test_wan_parity.py.
#include "dit/model/model.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <barrier>
#include <exception>
#include <thread>

#include "dit/small_model.hpp"
#include "tests/io/temporary.hpp"

namespace vmoba::dit {
namespace {

using test::message_of;
using test::small_inputs;
using test::small_model;
using test::sparse_plan;

std::vector<double> densities(WanModel& model, const test::Inputs& inputs, const StepContext& context) {
  const at::NoGradGuard no_grad;
  model->forward(inputs.latents, inputs.timestep, inputs.text, {}, context);
  return model->last_density();
}

StepContext at_step(std::int64_t step, std::int64_t steps, std::int64_t branch = 0) {
  return {Schedule::Use::sampling, step, steps, branch};
}

std::string argument_message(const std::function<void()>& call) { return message_of(Error::Kind::argument, call); }

TEST(Model, DenseLayersAndMinTokens) {
  WanModel model = small_model();
  model->record_density(true);
  AttentionPlan plan = sparse_plan();
  plan.schedule.dense_layers = {1};
  model->set_plan(plan);
  const std::vector<double> found = densities(model, small_inputs(), {});
  ASSERT_EQ(found.size(), 3u);
  EXPECT_LT(found[0], 0.9);
  EXPECT_EQ(found[1], 1);
  EXPECT_LT(found[2], 0.9);

  plan.schedule.dense_layers = {};
  plan.schedule.min_tokens = 4 * 4 * 6 + 1;
  model->set_plan(plan);
  EXPECT_EQ(densities(model, small_inputs(), {}), (std::vector<double>{1, 1, 1}));
  EXPECT_LT(densities(model, small_inputs({6, 8, 12}), {})[0], 0.9);
}

TEST(Model, DenseStepsInSamplingOnly) {
  WanModel model = small_model();
  model->record_density(true);
  AttentionPlan plan = sparse_plan();
  plan.schedule.dense_fraction = 0.25;
  model->set_plan(plan);
  for (std::int64_t step = 0; step < 8; ++step) {
    EXPECT_EQ(densities(model, small_inputs(), at_step(step, 8))[0] == 1, step < 2) << step;
  }
  plan.schedule.dense_steps = 5;
  model->set_plan(plan);
  EXPECT_EQ(densities(model, small_inputs(), at_step(4, 8))[2], 1);
  EXPECT_LT(densities(model, small_inputs(), at_step(5, 8))[2], 0.9);
  EXPECT_LT(densities(model, small_inputs(), {})[2], 0.9);  // training
}

TEST(Model, RefreshKeepsSelectionsPerLayerAndBranch) {
  WanModel model = small_model();
  model->record_density(true);
  AttentionPlan plan = sparse_plan();
  plan.schedule.dense_steps = 0;
  plan.schedule.refresh = 3;
  model->set_plan(plan);
  const auto inputs = [](std::int64_t step) { return small_inputs({4, 8, 12}, 1, 10 + step); };
  std::vector<std::vector<double>> fresh, kept;
  for (std::int64_t step = 0; step < 6; ++step) {
    kept.push_back(densities(model, inputs(step), at_step(step, 100)));
    // Another branch starts with a selection of its own although this step is no refresh.
    if (step == 1) {
      EXPECT_NE(densities(model, inputs(4), at_step(step, 100, 1)), kept[0]);
    }
  }
  EXPECT_EQ(kept[1], kept[0]);
  EXPECT_EQ(kept[2], kept[0]);
  EXPECT_NE(kept[3], kept[0]);
  EXPECT_EQ(kept[5], kept[3]);
  plan.schedule.refresh = 1;
  model->set_plan(plan);
  for (std::int64_t step = 0; step < 2; ++step) fresh.push_back(densities(model, inputs(step), at_step(step, 100)));
  EXPECT_EQ(fresh[0], kept[0]);
  EXPECT_NE(fresh[1], kept[0]);

  // A kept selection never serves another shape, a new plan or the next run.
  plan.schedule.refresh = 3;
  model->set_plan(plan);
  const std::vector<double> first = densities(model, inputs(0), at_step(0, 3));
  EXPECT_NO_THROW(densities(model, small_inputs({3, 8, 12}), at_step(1, 3)));
  densities(model, inputs(0), at_step(0, 3));
  densities(model, inputs(2), at_step(2, 3));  // the last step drops what was kept
  EXPECT_NE(densities(model, inputs(1), at_step(1, 3)), first);
}

TEST(Model, ProbeSeesQueriesAndKeysOnceEvenWhenBlocksAreRecomputed) {
  WanModel model = small_model();
  model->set_activation_checkpointing(true);
  std::vector<std::int64_t> layers;
  model->set_probe([&](std::int64_t layer, const at::Tensor& q, const at::Tensor& k) {
    layers.push_back(layer);
    EXPECT_EQ(q.sizes(), (at::IntArrayRef{1, 96, 2, 24}));
    EXPECT_EQ(k.sizes(), q.sizes());
  });
  const test::Inputs inputs = small_inputs();
  model->forward(inputs.latents, inputs.timestep, inputs.text).sum().backward();
  EXPECT_EQ(layers, (std::vector<std::int64_t>{0, 1, 2}));
  model->set_probe({});
  model->forward(inputs.latents, inputs.timestep, inputs.text);
  EXPECT_EQ(layers.size(), 3u);
}

TEST(Model, ABatchIsItsSamples) {
  WanModel model = small_model();
  model->set_plan(sparse_plan());
  const at::NoGradGuard no_grad;
  const test::Inputs two = small_inputs({4, 8, 12}, 2);
  const at::Tensor together = model->forward(two.latents, two.timestep, two.text);
  for (std::int64_t b = 0; b < 2; ++b) {
    const at::Tensor one =
        model->forward(two.latents.narrow(0, b, 1), two.timestep.narrow(0, b, 1), two.text.narrow(0, b, 1));
    EXPECT_LT((one - together.narrow(0, b, 1)).abs().max().item<double>(), 1e-5);
  }
}

TEST(Model, InitialWeightsFollowFromTheSeedAndThePredictionStartsAtZero) {
  const Config config = test::small_config();
  const WanModel a(config), b(config);
  WanModel c(config);
  init_weights(c, 5);
  const auto parameters = a->named_parameters();
  for (const auto& entry : b->named_parameters()) EXPECT_TRUE(at::equal(entry.value(), parameters[entry.key()]));
  EXPECT_FALSE(
      at::equal(c->named_parameters()["blocks.0.attn1.to_q.weight"], parameters["blocks.0.attn1.to_q.weight"]));
  const test::Inputs inputs = small_inputs();
  WanModel model = a;
  EXPECT_EQ(model->forward(inputs.latents, inputs.timestep, inputs.text).abs().max().item<double>(), 0);
  EXPECT_TRUE(non_finite_weights(a).empty());
  const at::NoGradGuard no_grad;
  c->named_parameters()["blocks.1.ffn.net.2.weight"][0][0] = NAN;
  EXPECT_EQ(non_finite_weights(c), (std::vector<std::string>{"blocks.1.ffn.net.2.weight"}));
}

TEST(Model, WrongInputsAreRefusedWithTheWayOut) {
  WanModel model = small_model();
  const test::Inputs good = small_inputs();
  const auto message = [&](const at::Tensor& latents, const at::Tensor& timestep, const at::Tensor& text,
                           const at::Tensor& image = {}) {
    return argument_message([&] { model->forward(latents, timestep, text, image); });
  };
  EXPECT_NE(message(torch::zeros({1, 4, 4, 7, 12}), good.timestep, good.text).find("6 or 8"), std::string::npos);
  EXPECT_NE(message(torch::zeros({1, 5, 4, 8, 12}), good.timestep, good.text).find("in_channels"), std::string::npos);
  EXPECT_NE(message(torch::zeros({4, 4, 8, 12}), good.timestep, good.text).find("latents"), std::string::npos);
  EXPECT_NE(message(torch::zeros({1, 4, 1025, 2, 2}), good.timestep, good.text).find("1024"), std::string::npos);
  EXPECT_NE(message(good.latents, torch::zeros({2}), good.text).find("timestep"), std::string::npos);
  EXPECT_NE(message(good.latents, good.timestep, torch::zeros({1, 5, 13})).find("12"), std::string::npos);
  EXPECT_NE(message(good.latents, good.timestep, good.text, torch::zeros({1, 3, 8})).find("image"), std::string::npos);
}

// Ranks are threads of one process that exchange slices through shared memory; forward only.
struct Exchange {
  explicit Exchange(std::int64_t ranks) : ranks(ranks), slots(ranks), barrier(ranks) {}
  std::int64_t ranks;
  std::vector<at::Tensor> slots;
  std::barrier<> barrier;
};
class ThreadParallel : public SequenceParallel {
 public:
  ThreadParallel(Exchange& exchange, std::int64_t rank) : exchange_(exchange), rank_(rank) {}
  std::int64_t rank() const override { return rank_; }
  std::int64_t size() const override { return exchange_.ranks; }
  at::Tensor tokens_to_heads(const at::Tensor& x) override { return all(x, 1, 2); }
  at::Tensor heads_to_tokens(const at::Tensor& x) override { return all(x, 2, 1); }
  at::Tensor gather_tokens(const at::Tensor& x) override { return all(x, 1, -1); }

 private:
  // Everything joined along one axis, and of it this rank's share of another.
  at::Tensor all(const at::Tensor& x, std::int64_t join, std::int64_t cut) {
    exchange_.slots[rank_] = x;
    exchange_.barrier.arrive_and_wait();
    at::Tensor whole = at::cat(exchange_.slots, join);
    exchange_.barrier.arrive_and_wait();
    return cut < 0 ? whole : whole.chunk(exchange_.ranks, cut)[rank_];
  }
  Exchange& exchange_;
  std::int64_t rank_;
};

TEST(Model, SequenceParallelRanksAgreeWithOne) {
  // 3 x 3 x 5 = 45 tokens: one of padding.
  const test::Inputs inputs = small_inputs({3, 6, 10}, 2);
  for (const bool dense : {true, false}) {
    const AttentionPlan plan = dense ? AttentionPlan{} : sparse_plan();
    WanModel alone = small_model();
    alone->set_plan(plan);
    const at::NoGradGuard no_grad;
    const at::Tensor expected = alone->forward(inputs.latents, inputs.timestep, inputs.text);
    Exchange exchange(2);
    std::vector<at::Tensor> found(2);
    std::vector<std::thread> threads;
    for (std::int64_t rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank] {
        const at::NoGradGuard without;
        WanModel model = small_model();
        model->set_plan(plan);
        model->set_sequence_parallel(std::make_shared<ThreadParallel>(exchange, rank));
        found[rank] = model->forward(inputs.latents, inputs.timestep, inputs.text);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const at::Tensor& out : found) EXPECT_LT((out - expected).abs().max().item<double>(), 2e-5);
  }
}

TEST(Model, SequenceParallelRefusesHeadsThatDoNotDivideAndSharedBudgets) {
  Exchange three(3), two(2);
  WanModel model = small_model();
  const std::string heads =
      argument_message([&] { model->set_sequence_parallel(std::make_shared<ThreadParallel>(three, 0)); });
  EXPECT_NE(heads.find("use 1, 2"), std::string::npos) << heads;
  model->set_sequence_parallel(std::make_shared<ThreadParallel>(two, 0));
  AttentionPlan plan = sparse_plan();
  for (const Scope scope : {Scope::block, Scope::all}) {
    plan.cycle[1].policy = Threshold{0.25, scope};
    EXPECT_NE(argument_message([&] { model->set_plan(plan); }).find("scope"), std::string::npos);
  }
  model->set_sequence_parallel(nullptr);
  model->set_plan(plan);
  EXPECT_NE(
      argument_message([&] { model->set_sequence_parallel(std::make_shared<ThreadParallel>(two, 0)); }).find("scope"),
      std::string::npos);
}

}  // namespace
}  // namespace vmoba::dit
